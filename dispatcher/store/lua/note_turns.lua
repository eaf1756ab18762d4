--[[ note_turns: remember which turn of each task id is about to be admitted, so that an earlier turn does not run again beside it.
KEYS[1] leader  STRING  must equal token
KEYS[*] turn    STRING  one for each task id: the turn, and when it came in ms
ARGV[1] token
ARGV[2] ttl_ms
ARGV[*] turn, one for each task id
Returns 1; -1 NOT_LEADER. At most 999. ]]
local leader, token, ttl_ms = KEYS[1], ARGV[1], ARGV[2]
if redis.call('GET', leader) ~= token then return -1 end
local now = string.format('%d', now_ms())
for i = 2, #KEYS do
  redis.call('SET', KEYS[i], ARGV[i + 1] .. ' ' .. now, 'PX', ttl_ms)
end
return 1
