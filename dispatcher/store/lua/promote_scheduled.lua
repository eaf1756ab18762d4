--[[ promote_scheduled: move jobs that are due from `scheduled` to the back of their lanes.
KEYS[1] leader     STRING  must equal token
KEYS[2] scheduled  ZSET    entries by due time in ms
KEYS[3] lanes      SET
ARGV[1] token
ARGV[2] lane_prefix  key of a lane's list without its name (lane names come out of the entries)
ARGV[3] limit        at most 500
Returns how many were moved; -1 NOT_LEADER. Redis' clock says what is due. ]]
local leader, scheduled, lanes = KEYS[1], KEYS[2], KEYS[3]
local token, lane_prefix, limit = ARGV[1], ARGV[2], ARGV[3]
if redis.call('GET', leader) ~= token then return -1 end
local due = redis.call('ZRANGEBYSCORE', scheduled, '-inf', now_ms(), 'LIMIT', 0, limit)
for _, entry in ipairs(due) do
  local lane = lane_of(entry)
  redis.call('LPUSH', lane_prefix .. lane, frame_of(entry))
  redis.call('SADD', lanes, lane)
  redis.call('ZREM', scheduled, entry)
end
return #due
