--[[ purge: forget waiting jobs of one lane, or scheduled jobs, that the caller has read.
KEYS[1] source    LIST   a lane; or ZSET scheduled
KEYS[2] messages  HASH
KEYS[3] lanes     SET
ARGV[1] lane      the lane's name; "" for `scheduled`
ARGV[*] frames of the lane, or entries of `scheduled`, at most 500
Returns for each 1 (forgotten) or 0 (it does not wait there any more: it was assigned meanwhile, and is left alone). ]]
local source, messages, lanes = KEYS[1], KEYS[2], KEYS[3]
local lane = ARGV[1]
local forgotten = {}
for i = 2, #ARGV do
  local entry = ARGV[i]
  local found = lane == '' and redis.call('ZREM', source, entry) or redis.call('LREM', source, 1, entry)
  if found == 1 then redis.call('HDEL', messages, job_of(entry)) end
  forgotten[i - 1] = found
end
if lane ~= '' and redis.call('EXISTS', source) == 0 then redis.call('SREM', lanes, lane) end
return forgotten
