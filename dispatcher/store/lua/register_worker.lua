--[[ register_worker: begin a worker life.
KEYS[1] alive           STRING  of the new epoch
KEYS[2] worker          HASH
KEYS[3] workers         SET
KEYS[4] ingress_queues  SET
KEYS[5] models          SET
KEYS[6] wake            LIST
KEYS[7] leader          STRING
KEYS[8] leader_info     HASH    what the leader reads
KEYS[9] formats         STRING  what may lie in the cell
KEYS[10] sequence       STRING  exists once a job was admitted
ARGV[1] epoch
ARGV[2] alive_ttl_ms
ARGV[3] registration    JSON
ARGV[4] oldest          format that the worker reads
ARGV[5] newest          format that it reads
ARGV[6] ingress_count   names of ingress queues follow, then names of models
Returns now_ms; 0 when the epoch exists already, and -1 FORMATS when the worker does not read all that may lie in the cell, or shares no
format with the leader: nothing was written.
What it does not check here, the leader does when it gains the lead: each of two that start together sees the other. ]]
local alive, worker, workers, ingress_queues, models, wake = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local leader, leader_info, formats, sequence = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local epoch, alive_ttl_ms, registration, ingress_count = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[6])
local oldest, newest = tonumber(ARGV[4]), tonumber(ARGV[5])
if redis.call('EXISTS', alive, worker) > 0 then return 0 end
local stored_oldest, stored_newest = stored_formats(formats, sequence)
if stored_oldest and (stored_oldest < oldest or stored_newest > newest) then return -1 end
if redis.call('EXISTS', leader) == 1 then
  local leader_oldest, leader_newest = read_formats(redis.pcall('HGET', leader_info, 'formats'))
  if (leader_oldest or 1) > newest or (leader_newest or 1) < oldest then return -1 end
end
local now = now_ms()
redis.call('HSET', worker, 'registration', registration, 'registered_ms', string.format('%d', now))
redis.call('SADD', workers, epoch)
for i = 7, 6 + ingress_count do redis.call('SADD', ingress_queues, ARGV[i]) end
for i = 7 + ingress_count, #ARGV do redis.call('SADD', models, ARGV[i]) end
redis.call('SET', alive, '1', 'PX', alive_ttl_ms)
wake_dispatcher(wake)
return now
