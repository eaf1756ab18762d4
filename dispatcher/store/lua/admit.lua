--[[ admit: move the next messages of one ingress list to their lanes, to `scheduled`, or to dead letters.
KEYS[1] leader        STRING  must equal token
KEYS[2] ingress       LIST    right end next
KEYS[3] sequence      STRING
KEYS[4] messages      HASH    job number -> raw message
KEYS[5] lanes         SET     lanes that are not empty
KEYS[6] scheduled     ZSET    entries by due time
KEYS[7] dead_letters  ZSET
KEYS[8] dead_reasons  HASH
KEYS[9] unsettled     SET
KEYS[*] lane lists, named by number below
ARGV[1] token
ARGV[2] records      per message, next first, end to end in one string: its fingerprint (the last FINGERPRINT bytes of the message that
                     was planned for, or "sha1:<hex>" of it, or "!<length>" for one that was not read; blanks up to its width), and in
                     three digits which verdict it gets
ARGV[3] lane_count   names of the lanes follow, one for each of the lane lists
ARGV[*] verdicts     "L" .. facts .. lane number: it waits in that lane. facts: what its frame has after the time of admission
                     "S" .. facts .. lane number .. ":" .. due ms: it is not due before
                     "D" or "U" .. JSON of the reason: it is a dead letter; "U": its id needs a FAILURE
Returns {how many messages were moved, job number of the first, lane lists under whose key something else lay ...}: the others' numbers
follow that number; {0} none, {-1} NOT_LEADER. It stops at the first message that is not the planned one: somebody pushed to the head of
the list in between, and the next look sees that message.
Checks before it writes (an error half-way would admit the first jobs again and again), and writes the copy before the remove.
Bounded by what the caller sends (at most 999). ]]
local leader, ingress, sequence, messages, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local scheduled, dead_letters, dead_reasons, unsettled = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local token, records, lane_count = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('GET', leader) ~= token then return { -1 } end
local FINGERPRINT, RECORD = 64, 67
local planned = #records / RECORD
local waiting = redis.call('LRANGE', ingress, -planned, -1)
local length, sub, format = #waiting, string.sub, string.format

local function is_same(raw, fingerprint)
  if sub(raw, -FINGERPRINT) == fingerprint then return true end
  local wanted = string.match(fingerprint, '^(.-) *$')
  return '!' .. #raw == wanted or 'sha1:' .. redis.sha1hex(raw) == wanted
end

local matched = 0
for i = 1, math.min(planned, length) do
  local at = (i - 1) * RECORD
  if not is_same(waiting[length - i + 1], sub(records, at + 1, at + FINGERPRINT)) then break end
  matched = i
end
if matched == 0 then return { 0 } end
local reply = { matched, 0 }
for i = 10, #KEYS do
  if free_lane(KEYS[i]) then reply[#reply + 1] = KEYS[i] end
end

for i = 4 + lane_count, #ARGV do
  local kind = sub(ARGV[i], 1, 1)
  if kind == 'D' or kind == 'U' then free_dead(dead_letters, dead_reasons, unsettled) end
  if kind == 'S' then free_key(scheduled, 'zset') end
end

local now = now_ms()
local number = reserve_numbers(sequence, matched)
local admitted_at = format('%013d', now)
local stored, pushes = {}, {}
local waits = {}  -- per number of a verdict that says "it waits": the frames of its lane, and how each ends
for i = 1, matched do
  local verdict_number = sub(records, i * RECORD - 2, i * RECORD)
  local job = format('%d', number + i - 1)
  stored[2 * i - 1], stored[2 * i] = job, waiting[length - i + 1]
  local there = waits[verdict_number]
  local verdict = not there and ARGV[3 + lane_count + tonumber(verdict_number)]
  local kind = there and 'L' or sub(verdict, 1, 1)
  if kind == 'L' then
    if not there then
      local lane = sub(verdict, 32)
      pushes[lane] = pushes[lane] or {}
      there = { pushes[lane], admitted_at .. sub(verdict, 2, 31) }
      waits[verdict_number] = there
    end
    local frames = there[1]
    frames[#frames + 1] = job .. there[2]
  elseif kind == 'S' then
    local colon = string.find(verdict, ':', 32, true)
    local lane = ARGV[3 + tonumber(sub(verdict, 32, colon - 1))]
    redis.call('ZADD', scheduled, sub(verdict, colon + 1), job .. admitted_at .. sub(verdict, 2, 31) .. lane)
  else
    redis.call('HSET', dead_reasons, job, sub(verdict, 2))
    redis.call('ZADD', dead_letters, now, job)
    if kind == 'U' then redis.call('SADD', unsettled, job) end
  end
end
for lane in pairs(pushes) do redis.call('SADD', lanes, ARGV[3 + tonumber(lane)]) end
redis.call('HSET', messages, unpack(stored))
for lane, list in pairs(pushes) do redis.call('RPUSH', KEYS[9 + tonumber(lane)], unpack(list)) end
redis.call('LTRIM', ingress, 0, -(matched + 1))
reply[2] = number
return reply
