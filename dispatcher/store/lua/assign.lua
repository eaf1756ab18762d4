--[[ assign: give the next jobs of lanes to workers, under leases.
KEYS[1] leader    STRING  must equal token
KEYS[2] lanes     SET
KEYS[3] sequence  STRING
KEYS[*] per lane: its list, then for each of its workers alive:<epoch>, worker:<epoch>, leases:<epoch>, wq:<epoch>
ARGV[1] token
ARGV[2] jobs_max  all jobs that are wanted below, together
ARGV[*] per lane: its name, how many workers follow; then for each worker: epoch, jobs wanted, window
Returns {-1} NOT_LEADER, else per worker of each lane, in order, how many jobs were assigned: fewer than wanted if the lane was shorter
or the worker had less room, 0 if the worker is draining or dead. Then, per lane, the frames of the assigned jobs, end to end in one
string, in the order they were given.
Room is window minus the leases in Redis now, never the caller's view of them: no worker's leases pass its window.
Each lane's checks come before its writes, and the lease is written before the job leaves its lane. The caller sees to it that a worker
stands once in a lane's list, and that jobs_max is at most 1000. ]]
local leader, lanes, sequence = KEYS[1], KEYS[2], KEYS[3]
local token, jobs_max = ARGV[1], tonumber(ARGV[2])
if redis.call('GET', leader) ~= token then return { -1 } end
local call, format = redis.call, string.format
local assigned, frames_of, k, a = {}, {}, 4, 3
local number = reserve_numbers(sequence, jobs_max)  -- those that are not used are skipped
while a <= #ARGV do
  local lane_list, lane, workers = KEYS[k], ARGV[a], tonumber(ARGV[a + 1])
  k, a = k + 1, a + 2
  local wanted_in_all = 0
  for i = 0, workers - 1 do wanted_in_all = wanted_in_all + tonumber(ARGV[a + i * 3 + 1]) end
  -- One frame more than is wanted tells whether the lane will be empty.
  local frames = call('LRANGE', lane_list, 0, wanted_in_all)
  local beyond = #frames > wanted_in_all and table.remove(frames)
  local given, gone = {}, 0
  for i = 0, workers - 1 do
    local alive, worker, leases, queue = KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3]
    local epoch, wanted, window = ARGV[a], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
    k, a = k + 4, a + 3
    local count = 0
    if gone < #frames and may_take(alive, worker) then
      count = math.max(0, math.min(wanted, #frames - gone, window - call('HLEN', leases)))
    end
    if count > 0 then
      local fields, ids = {}, {}
      for j = 1, count do
        local id = format('%s.%d', epoch, number)
        ids[j], fields[2 * j - 1], fields[2 * j] = id, id, frames[gone + j] .. lane
        number = number + 1
      end
      given[#given + 1] = { queue, ids, leases, fields }
      gone = gone + count
    end
    assigned[#assigned + 1] = count
  end
  -- An id without its lease starts nothing, so what might still fail (a key of the wrong type) comes first.
  for _, share in ipairs(given) do call('LPUSH', share[1], unpack(share[2])) end
  for _, share in ipairs(given) do call('HSET', share[3], unpack(share[4])) end
  frames_of[#frames_of + 1] = table.concat(frames, '', 1, gone)
  if gone > 0 then
    call('LTRIM', lane_list, gone, -1)
    if gone == #frames and not beyond then call('SREM', lanes, lane) end
  end
end
for _, frames in ipairs(frames_of) do assigned[#assigned + 1] = frames end
return assigned
