--[[ promote_scheduled: move jobs that are due from `scheduled` to the back of their lanes, or bury them if their deadline has passed.
KEYS[1] leader        STRING  must equal token
KEYS[2] scheduled     ZSET    entries by due time in ms
KEYS[3] lanes         SET
KEYS[4] dead_letters  ZSET
KEYS[5] dead_reasons  HASH
KEYS[6] unsettled     SET
ARGV[1] token
ARGV[2] lane_prefix  key of a lane's list without its name (lane names come out of the entries)
ARGV[3] limit        at most 1000
ARGV[4] reason       JSON, for the jobs that are buried
Returns {how many members were moved, how many of them to dead letters, how many that are not jobs to `scheduled:aside`};
{-1} NOT_LEADER. Redis' clock says what is due. ]]
local leader, scheduled, lanes, dead_letters, dead_reasons, unsettled = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local token, lane_prefix, limit, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('GET', leader) ~= token then return { -1 } end
local now, buried, aside = now_ms(), 0, 0
local due = redis.call('ZRANGEBYSCORE', scheduled, '-inf', now, 'LIMIT', 0, limit)
for _, entry in ipairs(due) do
  if not is_entry(entry) then
    free_key(scheduled .. ':aside', 'zset')
    redis.call('ZADD', scheduled .. ':aside', now, entry)
    aside = aside + 1
  elseif is_late(entry, now) then
    bury(dead_letters, dead_reasons, unsettled, entry, reason, now)
    buried = buried + 1
  else
    local lane = lane_of(entry)
    free_lane(lane_prefix .. lane)
    redis.call('SADD', lanes, lane)  -- first: it may be refused, for a key of another type
    redis.call('RPUSH', lane_prefix .. lane, frame_of(entry))
  end
  redis.call('ZREM', scheduled, entry)
end
return { #due, buried, aside }
