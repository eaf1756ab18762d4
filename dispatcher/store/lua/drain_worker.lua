--[[ drain_worker: give a worker nothing new; or take that back, unless it is to exit: nobody can take back what it is doing about that.
KEYS[1] alive   STRING  of the epoch
KEYS[2] worker  HASH
KEYS[3] wake    LIST
ARGV[1] mode    "exit": it finishes and exits; "keep": it finishes and stays; "": undrain
Returns 1; 0 no such worker lives; -1 REFUSED: it exits. Its unstarted leases are recalled by the next tick of the leader. ]]
local alive, worker, wake = KEYS[1], KEYS[2], KEYS[3]
local mode = ARGV[1]
if redis.call('EXISTS', alive) == 0 then return 0 end
if mode ~= 'exit' and redis.call('HGET', worker, 'draining') == 'exit' then return -1 end
if mode == '' then redis.call('HDEL', worker, 'draining') else redis.call('HSET', worker, 'draining', mode) end
wake_dispatcher(wake)
return 1
