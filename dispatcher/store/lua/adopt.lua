--[[ adopt: lease jobs that a worker runs to its new life: their leases were lost with Redis' state.
KEYS[1] alive     STRING  of the new epoch
KEYS[2] leases    HASH
KEYS[3] taken     HASH
KEYS[4] messages  HASH
KEYS[5] lanes     SET
ARGV[1] lane_prefix  key of a lane's list without its name (lane names come out of the entries)
ARGV[*] three for each job: lease id (of its old life; it is kept), entry, message. At most 500
Returns how many are leased to this life now; -1 EPOCH_ENDED: nothing was written.
A job that came back with an older state and waits in its lane is taken out of the lane. A job that lies anywhere else (leased to
another worker, scheduled, a dead letter) stays there and is not adopted: it has two runs. May be called again. ]]
local alive, leases, taken, messages, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local lane_prefix = ARGV[1]
if redis.call('EXISTS', alive) == 0 then return -1 end
local adopted = 0
for a = 2, #ARGV - 2, 3 do
  local id, entry, message = ARGV[a], ARGV[a + 1], ARGV[a + 2]
  local lane, frame = lane_of(entry), frame_of(entry)
  local list = lane_prefix .. lane
  if redis.call('HEXISTS', leases, id) == 1 then
    adopted = adopted + 1
  else
    local waits = redis.call('LPOS', list, frame)
    if waits or redis.call('HEXISTS', messages, job_of(entry)) == 0 then
      redis.call('HSET', messages, job_of(entry), message)
      redis.call('HSET', taken, id, string.format('%.0f', now_ms()))
      redis.call('HSET', leases, id, entry)
      if waits then
        redis.call('LREM', list, 1, frame)
        if redis.call('EXISTS', list) == 0 then redis.call('SREM', lanes, lane) end
      end
      adopted = adopted + 1
    end
  end
end
return adopted
