--[[ read_ingress: read the next messages of every ingress list.
KEYS[*]  ingress lists, the one served first at the front
ARGV[1] limit      most messages over all lists
ARGV[2] bytes_max  a larger message is not sent: its place holds "!<size>" instead, or "!!<size>" for one that begins with "!"
                   itself: that is not JSON, and would be taken for the mark
ARGV[3] total_max  stop at this many bytes: less than this and one message is read
Returns one array: per list how many messages, then those of all lists, next first.
Writes nothing. ]]
local limit, bytes_max, total_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local call, byte = redis.call, string.byte
local reply, last, bytes = {}, #KEYS, 0
for i = 1, #KEYS do
  local key, before, position = KEYS[i], last, -1
  if limit > 0 and bytes < total_max and call('TYPE', key).ok == 'list' then
    -- One by one, so that huge messages are never copied by the dozen; and LRANGE walks a list from its far end (Redis 6).
    while limit > 0 and bytes < total_max do
      local message = call('LINDEX', key, position)
      if not message then break end
      bytes = bytes + #message
      if #message > bytes_max then
        message = '!' .. #message
      elseif byte(message) == 33 then  -- "!"
        message = '!!' .. #message
      end
      last = last + 1
      reply[last] = message
      limit, position = limit - 1, position - 1
    end
  end
  reply[i] = last - before
end
return reply
