--[[ register_worker: begin a worker life.
KEYS[1] alive           STRING  of the new epoch
KEYS[2] worker          HASH
KEYS[3] workers         SET
KEYS[4] ingress_queues  SET
KEYS[5] models          SET
KEYS[6] wake            LIST
ARGV[1] epoch
ARGV[2] alive_ttl_ms
ARGV[3] registration    JSON
ARGV[4] ingress_count   names of ingress queues follow, then names of models
Returns now_ms; 0 when the epoch exists already (nothing was written). ]]
local alive, worker, workers, ingress_queues, models, wake = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local epoch, alive_ttl_ms, registration, ingress_count = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if redis.call('EXISTS', alive, worker) > 0 then return 0 end
local now = now_ms()
redis.call('HSET', worker, 'registration', registration, 'registered_ms', string.format('%d', now))
redis.call('SADD', workers, epoch)
for i = 5, 4 + ingress_count do redis.call('SADD', ingress_queues, ARGV[i]) end
for i = 5 + ingress_count, #ARGV do redis.call('SADD', models, ARGV[i]) end
redis.call('SET', alive, '1', 'PX', alive_ttl_ms)
wake_dispatcher(wake)
return now
