--[[ ack: jobs have ended; remove their leases and messages.
KEYS[1] alive     STRING  of the epoch
KEYS[2] leases    HASH
KEYS[3] taken     HASH
KEYS[4] messages  HASH
KEYS[5] lanes     SET
KEYS[6] wake      LIST
ARGV[*] lease ids, at most 500
Returns how many leases were removed; -1 EPOCH_ENDED: nothing was changed, the jobs belong to others.
Wakes the dispatcher if jobs wait: there is room now. ]]
local alive, leases, taken, messages, lanes, wake = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
if redis.call('EXISTS', alive) == 0 then return -1 end
local jobs = {}
for _, entry in ipairs(redis.call('HMGET', leases, unpack(ARGV))) do
  if entry then jobs[#jobs + 1] = job_of(entry) end
end
if #jobs == 0 then return 0 end
redis.call('HDEL', messages, unpack(jobs))
redis.call('HDEL', leases, unpack(ARGV))
redis.call('HDEL', taken, unpack(ARGV))
if redis.call('EXISTS', lanes) == 1 then wake_dispatcher(wake) end
return #jobs
