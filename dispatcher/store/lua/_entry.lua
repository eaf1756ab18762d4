-- The record of a job that is kept beside its message. An *entry* is a frame of fixed width, so that no script ever parses JSON,
-- followed by the lane that the job belongs to. A lane's list holds bare frames (its name is in its key). dispatcher/store/frame.py
-- is the same layout in Python.
--   1-16 job number · 17-29 admitted-at ms · 30-38 cost ms · 39-40 crashes · 41-42 rejects · 43-44 reaps · 45-46 recalls
--   47-59 deadline in ms, zeros for none
local FRAME_BYTES = 59

local COUNTER_AT = { crashes = 39, rejects = 41, reaps = 43, recalls = 45 }


local function job_of(entry) return string.sub(entry, 1, 16) end

local function cost_ms_of(entry) return tonumber(string.sub(entry, 30, 38)) end

local function deadline_ms_of(entry) return tonumber(string.sub(entry, 47, 59)) end

local function has_deadline(entry) return string.sub(entry, 47, 59) ~= '0000000000000' end

-- True if the job may not begin any more.
local function is_late(entry, at_ms)
  local deadline = string.sub(entry, 47, 59)
  return deadline ~= '0000000000000' and tonumber(deadline) <= at_ms
end

-- True if the text is an entry: another program may have written anything to a key.
local function is_entry(entry)
  return #entry > FRAME_BYTES and not string.find(string.sub(entry, 1, FRAME_BYTES), '%D')
end

local function frame_of(entry) return string.sub(entry, 1, FRAME_BYTES) end

local function lane_of(entry) return string.sub(entry, FRAME_BYTES + 1) end

-- The entry with one of its counters raised by one (at most 99), and the new count.
local function bump(entry, counter)
  local at = COUNTER_AT[counter]
  local count = math.min(99, tonumber(string.sub(entry, at, at + 1)) + 1)
  return string.sub(entry, 1, at - 1) .. string.format('%02d', count) .. string.sub(entry, at + 2), count
end

-- Moves aside whatever lies under a key and is not of the type `wanted`: one such key would stop all jobs. True if it did.
local function free_key(key, wanted)
  local type = redis.call('TYPE', key).ok
  if type == wanted or type == 'none' then return false end
  redis.call('RENAME', key, key .. ':aside')
  return true
end

-- Frees the keys of dead letters: a job that could not be buried would be given back, or admitted, again and again.
local function free_dead(dead_letters, dead_reasons, unsettled)
  free_key(dead_letters, 'zset')
  free_key(dead_reasons, 'hash')
  free_key(unsettled, 'set')
end

-- The first writes of a burial. The caller removes the job from where it lay after that. `reason` is a JSON object.
local function bury(dead_letters, dead_reasons, unsettled, entry, reason, at_ms)
  local job = job_of(entry)
  free_dead(dead_letters, dead_reasons, unsettled)
  redis.call('HSET', dead_reasons, job, '{"entry":"' .. entry .. '",' .. string.sub(reason, 2))
  redis.call('ZADD', dead_letters, string.format('%d', at_ms), job)
  redis.call('SADD', unsettled, job)
end

local function now_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- Reserves `count` numbers that no other call ever gets: µs of Redis time, or one more than the last number if that is later.
-- They stay unique when Redis loses its last writes, where a plain counter would repeat itself. Returns the first.
local function reserve_numbers(sequence, count)
  local now = redis.call('TIME')
  local first = math.max(now[1] * 1000000 + now[2], (tonumber(redis.call('GET', sequence) or '0') or 0) + 1)
  redis.call('SET', sequence, string.format('%d', first + count - 1))
  return first
end

-- True if a worker lives and does not drain: only then may it be given jobs.
local function may_take(alive, worker)
  return redis.call('EXISTS', alive) == 1 and redis.call('HEXISTS', worker, 'draining') == 0
end

local function free_lane(list) return free_key(list, 'list') end

-- Oldest and newest format of what GET or HGET returned; nothing where that says none.
local function read_formats(said)
  local oldest, newest = string.match(type(said) == 'string' and said or '', '^(%d+) (%d+)$')
  return tonumber(oldest), tonumber(newest)
end

-- Oldest and newest format that may lie in the cell; nothing while no job was ever admitted. A cell that does not say has format 1 alone.
local function stored_formats(formats, sequence)
  local oldest, newest = read_formats(redis.pcall('GET', formats))
  if oldest then return oldest, newest end
  if redis.call('EXISTS', sequence) == 1 then return 1, 1 end
end

-- Wakes the sleeping dispatcher; the list never holds more than one element.
local function wake_dispatcher(wake)
  if redis.call('EXISTS', wake) == 0 then redis.call('LPUSH', wake, '1') end
end
