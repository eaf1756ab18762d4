--[[ requeue_dead: send a dead letter back to its ingress as the plain message it was, or forget it.
KEYS[1] dead_letters  ZSET
KEYS[2] dead_reasons  HASH
KEYS[3] unsettled     SET
KEYS[4] messages      HASH
KEYS[5] ingress       LIST  where it goes; the back of the line
ARGV[1] job     job number
ARGV[2] action  "requeue" or "purge"
Returns 1; 0 no such dead letter. ]]
local dead_letters, dead_reasons, unsettled, messages, ingress = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local job, action = ARGV[1], ARGV[2]
if not redis.call('ZSCORE', dead_letters, job) then return 0 end
local message = redis.call('HGET', messages, job)
if action == 'requeue' and message then redis.call('LPUSH', ingress, message) end
redis.call('ZREM', dead_letters, job)
redis.call('HDEL', dead_reasons, job)
redis.call('SREM', unsettled, job)
redis.call('HDEL', messages, job)
return 1
