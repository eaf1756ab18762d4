--[[ raise_format: records of a newer format may lie in the cell from now on, for all its workers read it.
KEYS[1] leader    STRING  must equal token
KEYS[2] formats   STRING  oldest and newest format that may lie here; no key: format 1
KEYS[3] workers   SET     epochs
KEYS[4] sequence  STRING  exists once a job was admitted
ARGV[1] token
ARGV[2] newest   the format; the epochs of the workers that read it follow
Returns 1; 0 a worker is registered that is not among those epochs, and -1 NOT_LEADER: nothing was written.
A worker that registers later is compared with what this writes: see register_worker. ]]
local leader, formats, workers, sequence = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local token, newest = ARGV[1], ARGV[2]
if redis.call('GET', leader) ~= token then return -1 end
local reads = {}
for i = 3, #ARGV do reads[ARGV[i]] = true end
for _, epoch in ipairs(redis.call('SMEMBERS', workers)) do
  if not reads[epoch] then return 0 end
end
local oldest = stored_formats(formats, sequence)
redis.call('SET', formats, string.format('%d %d', oldest or newest, newest))
return 1
