--[[ snapshot: everything a plan needs, at one instant. Reads no message.
KEYS[1] leader   STRING
KEYS[2] lanes    SET
KEYS[3] workers  SET     epochs
KEYS[4] paused   SET     ingress queues
KEYS[5] scheduled ZSET
ARGV[1] token
ARGV[2] cell     what every key of the cell begins with, colon included: the keys of lanes and epochs are found in the sets
ARGV[3] alive_ttl_ms  TTL that a beat gives to alive:<epoch>; the part that has passed dates the last beat
ARGV[4] by_lane  "1": add up the leased cost of each lane, else ""
Returns now_ms, leads (1 or 0), next_due_ms or "", how many elements each of these has, and the elements, one behind the other, in one
array: before 7.0 Redis sends each nested array in a write of its own, and wakes the caller each time.
  paused   ingress queues
  lanes    name, depth, frame of the job that is next
  workers  epoch, beat_age_ms (below 0 if Redis' clock was set back since; 0 if the life has ended), draining ("", "exit", "keep"),
           consume_age_ms, leases, leased cost ms, taken, done, loop_lag_ms, reason it ended ("" while it lives)
  leased   lane, cost in ms of its jobs that are leased; empty unless by_lane
  unreadable  keys of lanes, and patterns of keys of workers, that are of another type: these lanes and workers are left out
Writes nothing. ]]
local leader, lanes, workers, paused, scheduled = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local token, cell, alive_ttl_ms, by_lane = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local now = now_ms()  -- before the TTLs are read: a beat must not look newer for the time this takes
local reply, counted, leased, unreadable = { now, 0, '', 0, 0, 0, 0, 0 }, 8, {}, {}

-- Ends one part of the reply: what was added since the last call. Its size goes to index `at`.
local function end_part(at)
  reply[at] = #reply - counted
  counted = #reply
end

local function add_lane(lane)
  local key = cell .. 'lane:' .. lane
  local depth = redis.call('LLEN', key)
  if depth > 0 then
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3] = lane, depth, redis.call('LINDEX', key, 0)
  end
end

local function add_worker(epoch)
  local remaining_ms = redis.call('PTTL', cell .. 'alive:' .. epoch)
  local facts = redis.call('HMGET', cell .. 'worker:' .. epoch, 'draining', 'consume_age_ms', 'done', 'loop_lag_ms')
  local leases = redis.call('HVALS', cell .. 'leases:' .. epoch)
  local taken = redis.call('HLEN', cell .. 'taken:' .. epoch)
  local ended = remaining_ms < 0 and (redis.call('GET', cell .. 'dead:' .. epoch) or 'unknown') or ''
  local cost_ms = 0
  for _, entry in ipairs(leases) do
    local cost = cost_ms_of(entry) or 0
    cost_ms = cost_ms + cost
    if by_lane then
      local lane = lane_of(entry)
      leased[lane] = (leased[lane] or 0) + cost
    end
  end
  local n = #reply
  reply[n + 1] = epoch
  reply[n + 2] = remaining_ms < 0 and 0 or alive_ttl_ms - remaining_ms
  reply[n + 3] = facts[1] or ''
  reply[n + 4] = tonumber(facts[2] or '0') or 0
  reply[n + 5] = #leases
  reply[n + 6] = cost_ms
  reply[n + 7] = taken
  reply[n + 8] = tonumber(facts[3] or '0') or 0
  reply[n + 9] = tonumber(facts[4] or '0') or 0
  reply[n + 10] = ended
end

for _, queue in ipairs(redis.call('SMEMBERS', paused)) do reply[#reply + 1] = queue end
end_part(4)
-- A key of another type raises before its row is begun.
for _, lane in ipairs(redis.call('SMEMBERS', lanes)) do
  if not pcall(add_lane, lane) then unreadable[#unreadable + 1] = cell .. 'lane:' .. lane end
end
end_part(5)
for _, epoch in ipairs(redis.call('SMEMBERS', workers)) do
  if not pcall(add_worker, epoch) then unreadable[#unreadable + 1] = cell .. '*:' .. epoch end
end
end_part(6)
for lane, cost in pairs(leased) do
  local n = #reply
  reply[n + 1], reply[n + 2] = lane, cost
end
end_part(7)
for _, key in ipairs(unreadable) do reply[#reply + 1] = key end
end_part(8)
local due = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
if redis.call('GET', leader) == token then reply[2] = 1 end
reply[3] = due[2] or ''
return reply
