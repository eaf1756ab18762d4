--[[ read_ingress: look at the next messages of every ingress list, removing nothing.
KEYS[*]  ingress lists, the one served first at the front
ARGV[1] limit      most messages over all lists
ARGV[2] bytes_max  a larger message is not sent: its place holds "!<size>" instead, or "!!<size>" for one that begins with "!"
                   itself: that is not JSON, and would be taken for the mark
ARGV[3] total_max  stop after about this many bytes
Returns one array: per list how many messages, then those of all lists, next first.
Writes nothing. ]]
local limit, bytes_max, total_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local byte = string.byte
local reply, last, bytes = {}, #KEYS, 0
for i = 1, #KEYS do
  local before = last
  if limit > 0 and bytes < total_max and redis.call('TYPE', KEYS[i]).ok == 'list' then
    -- In slices, so that a list of huge messages is not copied whole; in few, for each walks the list from its far end (Redis 6).
    local position, slice, largest = -1, math.min(limit, 64), 1
    while slice > 0 do
      local part = redis.call('LRANGE', KEYS[i], position - slice + 1, position)
      for j = #part, 1, -1 do
        local message = part[j]
        bytes = bytes + #message
        if #message > largest then largest = #message end
        if #message > bytes_max then
          message = '!' .. #message
        elseif byte(message) == 33 then  -- "!"
          message = '!!' .. #message
        end
        last = last + 1
        reply[last] = message
      end
      limit = limit - #part
      position = position - #part
      if #part < slice then break end
      slice = math.min(limit, 4 * slice, math.ceil((total_max - bytes) / largest))
    end
  end
  reply[i] = last - before
end
return reply
