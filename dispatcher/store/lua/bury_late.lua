--[[ bury_late: turn waiting jobs whose deadline has passed into dead letters.
KEYS[1] leader        STRING  must equal token
KEYS[2] lanes         SET
KEYS[3] dead_letters  ZSET
KEYS[4] dead_reasons  HASH
KEYS[5] unsettled     SET
KEYS[*] lists of the lanes to look at
ARGV[1] token
ARGV[2] reason  JSON
ARGV[3] limit   how many jobs are looked at in all, at most 500
ARGV[*] per lane: its name, how many jobs at its head to pass over
Returns {-1} NOT_LEADER, else per lane, in order: how many jobs were looked at, how many of them were late. 0 looked at: no more jobs
wait in the lane than were passed over, or the limit was reached before it. Redis' clock says what is late. ]]
local leader, lanes, dead_letters, dead_reasons, unsettled = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local token, reason, left = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('GET', leader) ~= token then return { -1 } end
local now, found = now_ms(), {}
for i = 6, #KEYS do
  local lane_list, lane, pass_over = KEYS[i], ARGV[2 * i - 8], tonumber(ARGV[2 * i - 7])
  local frames = left > 0 and redis.call('LRANGE', lane_list, pass_over, pass_over + left - 1) or {}
  left = left - #frames
  local late = {}
  for j, frame in ipairs(frames) do
    if is_late(frame, now) then
      bury(dead_letters, dead_reasons, unsettled, frame .. lane, reason, now)
      late[#late + 1] = pass_over + j - 1
    end
  end
  if #late > 0 then
    -- Marked by place, then removed in one go: a search for each would go over the lane again and again.
    for _, place in ipairs(late) do redis.call('LSET', lane_list, place, '') end
    redis.call('LREM', lane_list, #late, '')
    if redis.call('EXISTS', lane_list) == 0 then redis.call('SREM', lanes, lane) end
  end
  found[#found + 1], found[#found + 2] = #frames, #late
end
return found
