--[[ take: start leased jobs. Only this starts one.
KEYS[1] alive     STRING  of the epoch
KEYS[2] leases    HASH
KEYS[3] taken     HASH    lease id -> ms when started
KEYS[4] messages  HASH
KEYS[5] revoked_at STRING  µs when something was last revoked
KEYS[6] queue     LIST    lease ids, right end next
ARGV[1] at_ms     about now, as the worker reckons from its last beat: asking Redis for the time is a tenth of what this call costs
ARGV[2] others    how many leases that are next in the queue are started too, at most
ARGV[*] lease ids that were popped from it
Returns false if this life has ended: drop all the ids silently. Else {revoked_at or "", then for each lease its id, its entry, and its
message}, where the entry may be
  0 LATE: its deadline has passed: give the lease back, to be buried
  "" it is not this worker's any more, or was taken already: drop it silently
After BYTES_MAX of messages no others are started. They are popped last: if a write fails (a full Redis), nothing is lost. ]]
local alive, leases, taken, messages, revoked_at, queue = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local at_ms, others, call = ARGV[1], tonumber(ARGV[2]), redis.call
local BYTES_MAX = 1024 * 1024
local state = call('MGET', alive, revoked_at)
if not state[1] then return false end                                   -- reaped while frozen
local ids = { unpack(ARGV, 3) }
local given = #ids
if others > 0 then
  local next = call('LRANGE', queue, -others, -1)
  for i = #next, 1, -1 do ids[#ids + 1] = next[i] end
end
local reply = { state[2] or '' }
if #ids == 0 then return reply end
local entries, started = call('HMGET', leases, unpack(ids)), call('HMGET', taken, unpack(ids))
local seen, marks, bytes, popped = {}, {}, 0, 0
for i, id in ipairs(ids) do
  if i > given then
    if bytes >= BYTES_MAX then break end
    popped = popped + 1
  end
  local entry, message = entries[i], false
  if not entry or started[i] or seen[id] then                           -- recalled or acked, or popped twice (AOF loss)
    entry = ''
  else
    message = call('HGET', messages, job_of(entry))
    if not message then
      entry = ''
    elseif has_deadline(entry) and is_late(entry, now_ms()) then
      entry, message = 0, false
    else
      bytes = bytes + #message
      marks[#marks + 1] = id
      marks[#marks + 1] = at_ms
    end
    seen[id] = true
  end
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = id, entry, message or ''
end
if #marks > 0 then call('HSET', taken, unpack(marks)) end
if popped > 0 then call('LTRIM', queue, 0, -(popped + 1)) end
return reply
