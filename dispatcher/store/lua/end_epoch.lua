--[[ end_epoch: the first step of goodbye and of reap. From here on take, ack, assign and heartbeat refuse the epoch.
KEYS[1] guard   STRING  alive:<epoch> for a goodbye, leader for a reap
KEYS[2] alive   STRING  of the epoch
KEYS[3] dead    STRING
KEYS[4] wake    LIST
ARGV[1] guard_value  what the guard must hold; "" means: it must exist
ARGV[2] reason       "goodbye" (the worker said it) or "silent" (it stopped beating)
ARGV[3] dead_ttl_ms  how long the reason is remembered
ARGV[4] beat_ttl_ms  for "silent": refused if the TTL of alive is above this, for then it beat after the look; else "0"
Returns 1; 0 it beat after all; -1 REFUSED. The next steps of the leader give back its leases. ]]
local guard, alive, dead, wake = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local guard_value, reason, dead_ttl_ms, beat_ttl_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local held = redis.call('GET', guard)
if not held or (guard_value ~= '' and held ~= guard_value) then return -1 end
if beat_ttl_ms > 0 and redis.call('PTTL', alive) > beat_ttl_ms then return 0 end
redis.call('SET', dead, reason, 'PX', dead_ttl_ms)
redis.call('DEL', alive)
wake_dispatcher(wake)
return 1
