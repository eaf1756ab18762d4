--[[ free_alone: forget the workers whose suspect has ended, so that they get other jobs again.
KEYS[1] leader  STRING  must equal token
KEYS[2] alone   HASH    epoch -> lease id of the suspect there
KEYS[*] leases  HASH    one for each epoch below
ARGV[1] token
ARGV[*] epochs
Returns the epochs where a suspect still runs; {-1} NOT_LEADER: nothing was written. ]]
local leader, alone = KEYS[1], KEYS[2]
local token = ARGV[1]
if redis.call('GET', leader) ~= token then return { -1 } end
local busy = {}
for a = 2, #ARGV do
  local epoch, id = ARGV[a], redis.call('HGET', alone, ARGV[a])
  if id and redis.call('HEXISTS', KEYS[a + 1], id) == 1 then
    busy[#busy + 1] = epoch
  else
    redis.call('HDEL', alone, epoch)
  end
end
return busy
