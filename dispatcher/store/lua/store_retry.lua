--[[ store_retry: store the state RETRY of a run, unless its task's result has changed since the caller read it.
KEYS[1] result  STRING  Celery's result of the task, in the result backend
ARGV[1] seen    what the caller read; "" means: nothing was there
ARGV[2] wanted  the new result
ARGV[3] ttl_s   how long it is kept; "0" means: for ever
Returns 1; 0 the result has changed: nothing was written, read it again. Whoever waits for the result is told, as Celery does it. ]]
local result = KEYS[1]
local seen, wanted, ttl_s = ARGV[1], ARGV[2], ARGV[3]
if (redis.call('GET', result) or '') ~= seen then return 0 end
if ttl_s == '0' then redis.call('SET', result, wanted) else redis.call('SETEX', result, ttl_s, wanted) end
redis.call('PUBLISH', result, wanted)
return 1
