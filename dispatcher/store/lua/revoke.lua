--[[ revoke: remember task ids and stamps of jobs that must not be started any more.
KEYS[1] revoked     ZSET    member -> µs when
KEYS[2] revoked_at  STRING  µs of the last revoke; a take tells the worker, which then reads what it has not seen
ARGV[1] kept_ms   how long it is remembered, at least
ARGV[2] kept_max  how many are remembered; the oldest go first
ARGV[*] members, at most 500
Returns how many were new. Every worker that hears a revoke calls this: a revoke that was added in the last minute is not new. ]]
local revoked, revoked_at = KEYS[1], KEYS[2]
local kept_ms, kept_max = tonumber(ARGV[1]), tonumber(ARGV[2])
local now_us, new = now_ms() * 1000, {}
for a = 3, #ARGV do
  local score = redis.call('ZSCORE', revoked, ARGV[a])
  if not score or tonumber(score) < now_us - 60000000 then new[#new + 1] = ARGV[a] end
end
if #new == 0 then return 0 end
local at = string.format('%.0f', reserve_numbers(revoked_at, 1))
for _, member in ipairs(new) do redis.call('ZADD', revoked, at, member) end
redis.call('ZREMRANGEBYSCORE', revoked, '-inf', string.format('(%.0f', now_us - kept_ms * 1000))
redis.call('ZREMRANGEBYRANK', revoked, 0, -(kept_max + 1))
redis.call('PEXPIRE', revoked, kept_ms)
redis.call('PEXPIRE', revoked_at, kept_ms)
return #new
