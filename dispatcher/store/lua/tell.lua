--[[ tell: publish the leader's view of the cell, for `status` and others.
KEYS[1] leader       STRING  must equal token
KEYS[2] leader_view  STRING
ARGV[1] token
ARGV[2] view        JSON
ARGV[3] expires_ms  a view that is not renewed is a dead leader's
Returns 1; -1 NOT_LEADER: nothing was written. ]]
local leader, leader_view = KEYS[1], KEYS[2]
local token, view, expires_ms = ARGV[1], ARGV[2], ARGV[3]
if redis.call('GET', leader) ~= token then return -1 end
redis.call('SET', leader_view, view, 'PX', expires_ms)
return 1
