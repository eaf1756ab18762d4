--[[ snapshot: everything a plan needs, at one instant. Reads no message.
KEYS[1] leader   STRING
KEYS[2] lanes    SET
KEYS[3] workers  SET     epochs
KEYS[4] paused   SET     ingress queues
KEYS[5] scheduled ZSET
ARGV[1] token
ARGV[2] cell     what every key of the cell begins with, colon included: the keys of lanes and epochs are found in the sets
ARGV[3] alive_ttl_ms  TTL that a beat gives to alive:<epoch>; what has gone of it dates the last beat
ARGV[4] by_lane  "1": add up the leased cost of each lane, else ""
Returns {now_ms, leads (1 or 0), paused, lanes, workers, next_due_ms or "", leased, unreadable}:
  lanes    flat: name, depth, frame of the job that is next
  workers  flat: epoch, beat_age_ms (below 0 where Redis' clock was set back since; 0 where it ended), draining ("", "exit", "keep"),
           consume_age_ms, leases, leased cost ms, taken, done, loop_lag_ms, reason it ended ("" while it lives)
  leased   flat: lane, cost in ms of its jobs that are leased; empty unless by_lane
  unreadable  keys of lanes, and patterns of those of workers, that are of another type: these are left out, the rest is there
Writes nothing. ]]
local leader, lanes, workers, paused, scheduled = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local token, cell, alive_ttl_ms, by_lane = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local now = now_ms()  -- before the TTLs are read: a beat must not look newer for the time this takes
local lane_rows, worker_rows, leased, unreadable = {}, {}, {}, {}

local function add_lane(lane)
  local key = cell .. 'lane:' .. lane
  local depth = redis.call('LLEN', key)
  if depth > 0 then
    local n = #lane_rows
    lane_rows[n + 1], lane_rows[n + 2], lane_rows[n + 3] = lane, depth, redis.call('LINDEX', key, 0)
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
  local n = #worker_rows
  worker_rows[n + 1] = epoch
  worker_rows[n + 2] = remaining_ms < 0 and 0 or alive_ttl_ms - remaining_ms
  worker_rows[n + 3] = facts[1] or ''
  worker_rows[n + 4] = tonumber(facts[2] or '0') or 0
  worker_rows[n + 5] = #leases
  worker_rows[n + 6] = cost_ms
  worker_rows[n + 7] = taken
  worker_rows[n + 8] = tonumber(facts[3] or '0') or 0
  worker_rows[n + 9] = tonumber(facts[4] or '0') or 0
  worker_rows[n + 10] = ended
end

-- What is of another type raises before its row is begun.
for _, lane in ipairs(redis.call('SMEMBERS', lanes)) do
  if not pcall(add_lane, lane) then unreadable[#unreadable + 1] = cell .. 'lane:' .. lane end
end
for _, epoch in ipairs(redis.call('SMEMBERS', workers)) do
  if not pcall(add_worker, epoch) then unreadable[#unreadable + 1] = cell .. '*:' .. epoch end
end
local leased_rows = {}
for lane, cost in pairs(leased) do
  leased_rows[#leased_rows + 1] = lane
  leased_rows[#leased_rows + 1] = cost
end
local due = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
local leads = redis.call('GET', leader) == token and 1 or 0
return { now, leads, redis.call('SMEMBERS', paused), lane_rows, worker_rows, due[2] or '', leased_rows, unreadable }
