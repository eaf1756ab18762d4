--[[ assign_alone: lease the next suspect of a lane to a worker that has no lease.
KEYS[1] leader    STRING  must equal token
KEYS[2] alive     STRING  of the epoch
KEYS[3] worker    HASH
KEYS[4] leases    HASH
KEYS[5] queue     LIST    the worker's
KEYS[6] sequence  STRING
KEYS[7] lanes     SET
KEYS[8] lane_list LIST    of the lane
KEYS[9] alone     HASH    epoch -> lease id of the suspect there
ARGV[1] token
ARGV[2] epoch
ARGV[3] lane
Returns 1; 0 the worker is dead, draining or has a lease, or no suspect waits: nothing was written; -1 NOT_LEADER.
Until that lease has ended the leader gives the worker nothing else; the next leader finds it in `alone`. ]]
local leader, alive, worker, leases, queue = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local sequence, lanes, lane_list, alone = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local token, epoch, lane = ARGV[1], ARGV[2], ARGV[3]
if redis.call('GET', leader) ~= token then return -1 end
if not may_take(alive, worker) or redis.call('HLEN', leases) > 0 then return 0 end
local frame = redis.call('LINDEX', lane_list, 0)
if not frame then return 0 end
local id = epoch .. string.format('.%.0f', reserve_numbers(sequence, 1))
redis.call('HSET', alone, epoch, id)
redis.call('LPUSH', queue, id)  -- an id without its lease starts nothing
redis.call('HSET', leases, id, frame .. lane)
redis.call('LPOP', lane_list)
if redis.call('EXISTS', lane_list) == 0 then redis.call('SREM', lanes, lane) end
return 1
