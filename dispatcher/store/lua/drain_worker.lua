--[[ drain_worker: give a worker no new jobs, or take that back. An exit cannot be taken back: the worker has begun it.
KEYS[1] alive   STRING  of the epoch
KEYS[2] worker  HASH
KEYS[3] wake    LIST
ARGV[1] mode    "exit": it finishes and exits; "keep": it finishes and stays; "": undrain
Returns 1; 0 no such worker lives; -1 REFUSED: it exits. The next tick of the leader recalls its unstarted leases. ]]
local alive, worker, wake = KEYS[1], KEYS[2], KEYS[3]
local mode = ARGV[1]
if redis.call('EXISTS', alive) == 0 then return 0 end
if mode ~= 'exit' and redis.call('HGET', worker, 'draining') == 'exit' then return -1 end
if mode == '' then redis.call('HDEL', worker, 'draining') else redis.call('HSET', worker, 'draining', mode) end
wake_dispatcher(wake)
return 1
