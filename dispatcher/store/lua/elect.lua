--[[ elect: become or stay the leading dispatcher of the cell.
KEYS[1] leader       STRING  random id of the leader; expires
KEYS[2] leader_info  HASH    who the leader is, for `status`; which formats it reads, for workers that register; its ttl_ms, for standbys
KEYS[3] leader_view  STRING  what the leader tells of the cell; another leader's is no longer true
ARGV[1] token        this dispatcher's random id
ARGV[2] ttl_ms       how long the lead lasts without renewal
ARGV[3] info         JSON: host, pid, started_at
ARGV[4] resign       "1": give up the lead instead
ARGV[5] formats      oldest and newest format that this dispatcher reads, with a space between
Returns 2 this dispatcher leads from now on, and did not a moment ago; 1 it leads still; 0 another does (or: resigned).
Equality with a random id, never a counter: a counter goes back when Redis loses its last writes.
A lead that would last longer than its leader asked for was dated before Redis' clock was set back. If its leader is dead, nobody would lead
for as long as the step back; so it counts as expired. A leader that lives may be replaced so, once: each script compares the id. ]]
local leader, info_key, leader_view = KEYS[1], KEYS[2], KEYS[3]
local token, ttl_ms, info, resign, formats = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local holder = redis.call('GET', leader)
if resign == '1' then
  if holder == token then redis.call('DEL', leader, info_key, leader_view) end
  return 0
end
if holder == token then
  redis.call('PEXPIRE', leader, ttl_ms)
  return 1
end
if holder then
  local asked_ms = tonumber(redis.pcall('HGET', info_key, 'ttl_ms'))
  if not asked_ms or redis.call('PTTL', leader) <= asked_ms then return 0 end
end
redis.call('DEL', info_key, leader_view)  -- of whatever type they are
redis.call('HSET', info_key, 'info', info, 'formats', formats, 'ttl_ms', ttl_ms)
redis.call('SET', leader, token, 'PX', ttl_ms)
return 2
