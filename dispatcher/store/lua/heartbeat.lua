--[[ heartbeat: note that a worker lives, and the numbers that it reports.
KEYS[1] alive   STRING  of the epoch
KEYS[2] dead    STRING  why the epoch ended
KEYS[3] worker  HASH
KEYS[4] leases  HASH
KEYS[5] queue   LIST    the worker's
KEYS[6] totals  HASH    epoch -> JSON
KEYS[7] leader  STRING  there while a dispatcher leads
ARGV[1] alive_ttl_ms
ARGV[2] epoch
ARGV[3] told    JSON for `totals`: what it has done, by kind of job; "" if `totals` has the same already
ARGV[*] field, value, …: totals and state to keep in `worker` (done, failed, busy_ms, running, consume_age_ms, loop_lag_ms, …)
Returns {status, draining, lease ids, ids in the queue, now_ms, is_led}:
  status 1 OK, -1 UNKNOWN (Redis does not know the epoch: it lost its state), -2 DEAD (reaped: stop, write nothing)
  draining "", "exit" (finish, then exit) or "keep" (finish, stay)
  is_led   1 if a dispatcher leads the cell, else 0
The PEXPIRE comes first: a full Redis refuses other writes, and that must not make the whole fleet look dead. ]]
local alive, dead, worker, leases, queue, totals, leader = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local is_led = redis.call('EXISTS', leader)
local alive_ttl_ms, epoch, told = ARGV[1], ARGV[2], ARGV[3]
if redis.call('PEXPIRE', alive, alive_ttl_ms) == 0 then
  return { redis.call('EXISTS', dead) == 1 and -2 or -1, '', {}, {}, now_ms(), is_led }
end
if #ARGV > 4 then redis.pcall('HSET', worker, unpack(ARGV, 4)) end
if told ~= '' then redis.pcall('HSET', totals, epoch, told) end
local draining = redis.call('HGET', worker, 'draining') or ''
return { 1, draining, redis.call('HKEYS', leases), redis.call('LRANGE', queue, 0, 999), now_ms(), is_led }
