--[[ assign_probe: lease a probe to one worker, even if it is ejected.
KEYS[1] leader    STRING  must equal token
KEYS[2] alive     STRING  of the epoch
KEYS[3] worker    HASH
KEYS[4] leases    HASH
KEYS[5] queue     LIST    the worker's
KEYS[6] sequence  STRING
KEYS[7] messages  HASH
KEYS[8] alone     HASH    epoch -> lease id of the suspect there
ARGV[1] token
ARGV[2] epoch
ARGV[3] window    the worker must have fewer leases than this, so that the probe begins at once
ARGV[4] facts     what the frame has after the time of admission
ARGV[5] lane
ARGV[6] message
Returns 1; 0 the worker is dead, draining or full, has not ended its last probe, or runs a suspect alone: nothing was written;
-1 NOT_LEADER. ]]
local leader, alive, worker, leases, queue = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local sequence, messages, alone = KEYS[6], KEYS[7], KEYS[8]
local token, epoch, window, facts, lane, message = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
if redis.call('GET', leader) ~= token then return -1 end
if not may_take(alive, worker) then return 0 end
local last = redis.call('HGET', worker, 'probe')
if (last and redis.call('HEXISTS', leases, last) == 1) or redis.call('HLEN', leases) >= window then return 0 end
if redis.call('HEXISTS', alone, epoch) == 1 then return 0 end
local number = reserve_numbers(sequence, 2)
local job, id = string.format('%d', number), epoch .. string.format('.%d', number + 1)
redis.call('HSET', messages, job, message)
redis.call('HSET', worker, 'probe', id)
redis.call('LPUSH', queue, id)  -- an id without its lease starts nothing
redis.call('HSET', leases, id, job .. string.format('%013d', now_ms()) .. facts .. lane)
return 1
