--[[ change_rollout: set one alias, if it is still as the caller saw it.
KEYS[1] leader    STRING
KEYS[2] rollouts  HASH    alias -> JSON
KEYS[3] wake      LIST
ARGV[1] token     the leading dispatcher's; "" for an operator
ARGV[2] alias
ARGV[3] seen      the JSON that the caller saw; "" means: there was none
ARGV[4] wanted    the new JSON; "" removes the alias
Returns 1; 0 somebody else changed it; -1 NOT_LEADER. Writes nothing unless it returns 1. ]]
local leader, rollouts, wake = KEYS[1], KEYS[2], KEYS[3]
local token, alias, seen, wanted = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if token ~= '' and redis.call('GET', leader) ~= token then return -1 end
if (redis.call('HGET', rollouts, alias) or '') ~= seen then return 0 end
if wanted == '' then redis.call('HDEL', rollouts, alias) else redis.call('HSET', rollouts, alias, wanted) end
wake_dispatcher(wake)
return 1
