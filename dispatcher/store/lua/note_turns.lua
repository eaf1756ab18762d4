--[[ note_turns: remember which turn of task ids is about to be admitted, so that an earlier one is not run again beside it.
KEYS[1] leader  STRING  must equal token
KEYS[*] turn    STRING  one for each task id
ARGV[1] token
ARGV[2] ttl_ms
ARGV[*] turn, one for each task id
Returns 1; -1 NOT_LEADER. At most 999. A later turn that is known already stays. ]]
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
for i = 2, #KEYS do
  local known = redis.pcall('GET', KEYS[i])  -- a key of another type is overwritten: it must not stop the jobs beside it
  if (type(known) == 'string' and tonumber(known) or 0) < tonumber(ARGV[i + 1]) then
    redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[2])
  end
end
return 1
