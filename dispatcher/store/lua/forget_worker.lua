--[[ forget_worker: remove a dead worker that has no leases any more: the last step of a reap.
KEYS[1] leader   STRING  must equal token
KEYS[2] workers  SET
KEYS[3] worker   HASH
KEYS[4] leases   HASH
KEYS[5] taken    HASH
KEYS[6] queue    LIST
KEYS[7] alive    STRING
KEYS[8] gone     ZSET    epochs forgotten lately, by when
KEYS[9] totals   HASH    epoch -> JSON
ARGV[1] token
ARGV[2] epoch
ARGV[3] keep_ms  how long `status` may still show it
Returns 1; 0 it lives, or leases are left; -1 NOT_LEADER. ]]
local leader, workers, worker, leases, taken, queue = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local alive, gone, totals = KEYS[7], KEYS[8], KEYS[9]
local token, epoch, keep_ms = ARGV[1], ARGV[2], ARGV[3]
if redis.call('GET', leader) ~= token then return -1 end
if redis.call('EXISTS', alive, leases) > 0 then return 0 end
redis.call('PEXPIRE', worker, keep_ms)  -- first: it may be refused
redis.call('DEL', taken, queue)
redis.call('SREM', workers, epoch)
redis.call('HDEL', totals, epoch)
redis.call('ZREMRANGEBYSCORE', gone, '-inf', now_ms() - keep_ms)
redis.call('ZADD', gone, now_ms(), epoch)
redis.call('PEXPIRE', gone, keep_ms)
return 1
