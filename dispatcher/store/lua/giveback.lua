--[[ giveback: end leases without an ack: each job goes back to the head of its lane, waits in `scheduled`, or is buried.
KEYS[1] guard         STRING  alive:<epoch> when the worker gives back, leader when the dispatcher reaps
KEYS[2] leases        HASH
KEYS[3] taken         HASH
KEYS[4] queue         LIST    the worker's
KEYS[5] lanes         SET
KEYS[6] scheduled     ZSET
KEYS[7] dead_letters  ZSET
KEYS[8] dead_reasons  HASH
KEYS[9] unsettled     SET
KEYS[10] wake         LIST
KEYS[11] messages     HASH
ARGV[1] guard_value   what the guard must hold; "" means: it must exist
ARGV[2] lane_prefix   key of a lane's list without its name (lane names come out of the leases)
ARGV[3] delay_ms      first wait of a rejected job, doubled with each reject, at most a minute, not beyond its deadline; 0: none
ARGV[4] story_prefix  key of a job's story without its number
ARGV[5] story_ttl_ms  how long a story is kept after its last line
ARGV[*] six for each lease: id, counter ("crashes", "rejects", "reaps", "recalls" or ""), bury_at, JSON of the reason, JSON of the attempt,
        lane. bury_at: the job is buried when the counter reaches it; "0" never, "-1" at once. attempt: a line of the job's
        story, "" for none; a burial puts the whole story into the reason. lane: the lane that the job waits in; "" for its
        own, "1" for that of jobs of the same kind that run alone
Returns how many leases were ended; -1 REFUSED (the epoch ended, or another leads): nothing was written.
"recalls" ends only leases that were not taken: a running job cannot be recalled.
A probe (task dispatcher.probe) is dropped: it was meant for this worker only.
Send the newest lease first, so that the oldest job ends at the head of its lane. At most 500. ]]
local guard, leases, taken, queue, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local scheduled, dead_letters, dead_reasons, unsettled, wake = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local messages = KEYS[11]
local guard_value, lane_prefix, delay_ms, story_prefix, story_ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local held = redis.call('GET', guard)
if not held or (guard_value ~= '' and held ~= guard_value) then return -1 end
local ended = 0
for a = 6, #ARGV - 5, 6 do
  local id, counter, bury_at, reason = ARGV[a], ARGV[a + 1], tonumber(ARGV[a + 2]), ARGV[a + 3]
  local attempt, new_lane = ARGV[a + 4], ARGV[a + 5]
  local entry = redis.call('HGET', leases, id)
  if entry and not (counter == 'recalls' and redis.call('HEXISTS', taken, id) == 1) then
    local count = 0
    if counter ~= '' then entry, count = bump(entry, counter) end
    local lane, story = lane_of(entry), story_prefix .. job_of(entry)
    if new_lane == '1' then
      new_lane = string.sub(lane, -8) == '/alone=1' and '' or lane .. '/alone=1'
    end
    if new_lane ~= '' then
      lane = new_lane
      entry = frame_of(entry) .. lane
    end
    if attempt ~= '' then
      free_key(story, 'list')
      local began = redis.call('HGET', taken, id) or 'null'
      redis.call('RPUSH', story, string.format('{"began_ms":%s,"ended_ms":%d,', began, now_ms()) .. string.sub(attempt, 2))
      redis.call('PEXPIRE', story, story_ttl_ms)
    end
    if string.find(lane, '/dispatcher.probe/', 1, true) then
      redis.call('HDEL', messages, job_of(entry))
    elseif bury_at < 0 or (bury_at > 0 and count >= bury_at) then
      free_key(story, 'list')
      local lines = {}
      for _, line in ipairs(redis.call('LRANGE', story, 0, -1)) do
        -- A line that was not written above could make the whole reason unreadable.
        if string.find(line, '^{"began_ms":%w+,"ended_ms":%d+,.*}$') then lines[#lines + 1] = line end
      end
      if #lines > 0 then reason = '{"story":[' .. table.concat(lines, ',') .. '],' .. string.sub(reason, 2) end
      bury(dead_letters, dead_reasons, unsettled, entry, reason, now_ms())
      redis.call('DEL', story)
    elseif counter == 'rejects' and delay_ms > 0 then
      local due_ms, deadline_ms = now_ms() + math.min(60000, delay_ms * 2 ^ (count - 1)), deadline_ms_of(entry)
      if deadline_ms > 0 then due_ms = math.min(due_ms, deadline_ms) end
      redis.call('ZADD', scheduled, string.format('%d', due_ms), entry)
    else
      free_lane(lane_prefix .. lane)
      redis.call('SADD', lanes, lane)  -- first: it may be refused, for a key of another type
      redis.call('LPUSH', lane_prefix .. lane, frame_of(entry))
    end
    redis.call('HDEL', leases, id)
    if redis.call('HDEL', taken, id) == 0 then redis.call('LREM', queue, 1, id) end
    ended = ended + 1
  end
end
if ended > 0 then wake_dispatcher(wake) end
return ended
