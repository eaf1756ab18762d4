--[[ publish: put a message that a task sends on its queue, once, however often the sender asks.
KEYS[1] sent   HASH  list -> number of the last message that this sender put there
KEYS[2] queue  LIST  any Celery queue's
ARGV[1] number   a sender counts its messages, and sends the next when it knows that the last has arrived
ARGV[2] message
ARGV[3] ttl_ms
Returns 1; 0 the message has arrived already, and the answer was lost. ]]
local sent, queue = KEYS[1], KEYS[2]
local number, message, ttl_ms = ARGV[1], ARGV[2], ARGV[3]
if redis.call('HGET', sent, queue) == number then return 0 end
redis.call('LPUSH', queue, message)
redis.call('HSET', sent, queue, number)
redis.call('PEXPIRE', sent, ttl_ms)
return 1
