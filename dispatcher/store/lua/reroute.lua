--[[ reroute: move waiting jobs from one lane to the heads of others: their model version was withdrawn.
KEYS[1] leader  STRING  must equal token
KEYS[2] lanes   SET
KEYS[3] source  LIST    of the lane they wait in
KEYS[*] lists of the lanes that they go to, named by number below
ARGV[1] token
ARGV[2] lane        name of the lane they wait in
ARGV[3] lane_count  names of the other lanes follow, one for each list
ARGV[*] two for each job, newest first: its frame, number of its new lane
Returns how many were moved, not counting jobs that wait there no more; -1 NOT_LEADER.
Jobs keep their order if they are sent newest first, and the newest of a lane in the first call. The copy is written before the remove.
At most 500. ]]
local leader, lanes, source = KEYS[1], KEYS[2], KEYS[3]
local token, lane, lane_count = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('GET', leader) ~= token then return -1 end
for i = 4, #KEYS do free_lane(KEYS[i]) end
local moved = 0
for a = 4 + lane_count, #ARGV - 1, 2 do
  local frame, to = ARGV[a], tonumber(ARGV[a + 1])
  if redis.call('LPOS', source, frame, 'RANK', -1) then
    redis.call('SADD', lanes, ARGV[3 + to])  -- first: it may be refused, for a key of another type
    redis.call('LPUSH', KEYS[3 + to], frame)
    redis.call('LREM', source, -1, frame)
    moved = moved + 1
  end
end
if redis.call('EXISTS', source) == 0 then redis.call('SREM', lanes, lane) end
return moved
