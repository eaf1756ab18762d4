--[[ take: start a leased job. Only this starts one.
KEYS[1] alive     STRING  of the epoch
KEYS[2] leases    HASH
KEYS[3] taken     HASH    lease id -> ms when started
KEYS[4] messages  HASH
KEYS[5] revoked_at STRING  µs when something was last revoked
ARGV[1] lease_id
Returns {message, entry, revoked_at}; false when it is not this worker's (any more), or was taken already: drop it silently;
0 LATE: its deadline has passed, and whoever gives it back buries it. ]]
local alive, leases, taken, messages, revoked_at = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local lease_id = ARGV[1]
if redis.call('EXISTS', alive) == 0 then return false end               -- reaped while frozen
local entry = redis.call('HGET', leases, lease_id)
if not entry then return false end                                      -- recalled or acked
local message = redis.call('HGET', messages, job_of(entry))
if not message then return false end
local now = now_ms()
if is_late(entry, now) and redis.call('HEXISTS', taken, lease_id) == 0 then return 0 end
if redis.call('HSETNX', taken, lease_id, string.format('%.0f', now)) == 0 then return false end  -- popped twice (AOF loss)
return { message, entry, redis.call('GET', revoked_at) }
