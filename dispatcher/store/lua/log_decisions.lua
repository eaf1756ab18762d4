--[[ log_decisions: append ticks of the leader, with what each decided; drop ticks that have become too old.
KEYS[1] leader     STRING  must equal token
KEYS[2] decisions  STREAM  n: jobs of the tick, tick: JSON; an id is the count of jobs logged before, plus one
ARGV[1] token
ARGV[2] kept         the ticks of this many jobs are kept, the last ones
ARGV[3] lifetime_ms  of the log after its last tick
ARGV[*] then per tick: how many jobs (at most kept), JSON
Returns how many jobs were ever logged; -1 NOT_LEADER. ]]
local leader, decisions = KEYS[1], KEYS[2]
local token, kept, lifetime_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3]
if redis.call('GET', leader) ~= token then return -1 end
free_key(decisions, 'stream')
local logged, last = 0, redis.call('XREVRANGE', decisions, '+', '-', 'COUNT', 1)[1]
if last then
  -- The fields come in the order they were written: n first.
  local jobs = tonumber(last[2][2]) or 0
  logged = tonumber(string.match(last[1], '^%d+')) + jobs - 1
  -- Another program wrote this entry, and nothing could be appended to it: the log begins anew.
  if not (jobs >= 1 and logged < 2 ^ 53) then
    redis.call('RENAME', decisions, decisions .. ':aside')
    logged = 0
  end
end
redis.call('PEXPIRE', decisions, lifetime_ms)  -- first: it refuses a lifetime that is not a number
for i = 4, #ARGV, 2 do
  local first = logged + 1
  logged = logged + tonumber(ARGV[i])
  local oldest = string.format('%d', math.max(0, logged - kept + 1))
  redis.call('XADD', decisions, 'MINID', '=', oldest, string.format('%d-0', first), 'n', ARGV[i], 'tick', ARGV[i + 1])
end
redis.call('PEXPIRE', decisions, lifetime_ms)
return logged
