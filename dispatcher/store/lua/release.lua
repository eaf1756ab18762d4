--[[ release: return waiting jobs of one lane, or scheduled jobs, to their ingress as the plain Celery messages they were.
KEYS[1] source    LIST   a lane; or ZSET scheduled
KEYS[2] ingress   LIST   where the messages go, ahead of what is there
KEYS[3] messages  HASH
KEYS[4] lanes     SET
ARGV[1] lane      the lane's name; "" for `scheduled`
ARGV[2] limit     at most 500
ARGV[*] for `scheduled`: its entries to move
Returns how many were moved. The newest goes first, so that the oldest is next in line. ]]
local source, ingress, messages, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local lane, limit = ARGV[1], tonumber(ARGV[2])
local moved = 0
local function move(frame)
  local message = redis.call('HGET', messages, job_of(frame))
  if message then redis.call('RPUSH', ingress, message) end
  redis.call('HDEL', messages, job_of(frame))
  moved = moved + 1
end
if lane == '' then
  for i = 3, #ARGV do
    if redis.call('ZREM', source, ARGV[i]) == 1 then move(ARGV[i]) end
  end
  return moved
end
local frames = redis.call('LRANGE', source, -limit, -1)
for i = #frames, 1, -1 do move(frames[i]) end
redis.call('LTRIM', source, 0, -(moved + 1))
if redis.call('EXISTS', source) == 0 then redis.call('SREM', lanes, lane) end
return moved
