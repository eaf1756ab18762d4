--[[ take: start a leased job. Only this starts one.
KEYS[1] alive     STRING  of the epoch
KEYS[2] leases    HASH
KEYS[3] taken     HASH    lease id -> ms when started
KEYS[4] messages  HASH
KEYS[5] revoked_at STRING  µs when something was last revoked
ARGV[1] lease_id
ARGV[2] at_ms     about now, as the worker reckons since its last beat: to ask for the time is a tenth of what this costs
Returns "<bytes of entry> <bytes of revoked_at> <entry><revoked_at><message>"; revoked_at is empty where nothing was. False when the job is
not this worker's (any more), or was taken already: drop it silently; 0 LATE: its deadline has passed, and whoever gives it back buries it.
A string, for Redis sends each array of a pipeline in a write of its own (before 7.0), which took as long as all the rest. ]]
local alive, leases, taken, messages, revoked_at = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local lease_id, at_ms, call = ARGV[1], ARGV[2], redis.call
local state = call('MGET', alive, revoked_at)
if not state[1] then return false end                                   -- reaped while frozen
local entry = call('HGET', leases, lease_id)
if not entry then return false end                                      -- recalled or acked
local message = call('HGET', messages, job_of(entry))
if not message then return false end
if has_deadline(entry) and is_late(entry, now_ms()) and call('HEXISTS', taken, lease_id) == 0 then return 0 end
if call('HSETNX', taken, lease_id, at_ms) == 0 then return false end    -- popped twice (AOF loss)
local revoked = state[2] or ''
return #entry .. ' ' .. #revoked .. ' ' .. entry .. revoked .. message
