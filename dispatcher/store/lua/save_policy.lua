--[[ save_policy: save what the leader has learned, for its successor.
KEYS[1] leader  STRING  must equal token
KEYS[2] policy  HASH    subject -> JSON
ARGV[1] token
ARGV[*] subject, JSON, …: at least one pair
Returns 1; -1 NOT_LEADER: nothing was written. ]]
local leader, policy = KEYS[1], KEYS[2]
local token = ARGV[1]
if redis.call('GET', leader) ~= token then return -1 end
redis.call('HSET', policy, unpack(ARGV, 2))
return 1
