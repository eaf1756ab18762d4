--[[ free_keys: move aside what lies under a key of the cell and is of another type: it would stop all that uses the key.
KEYS[*] keys of which a cell has one
ARGV[*] the type that each must have
Returns the keys beside which something lies: what was there has the same name and ":aside" at its end now.
Needs no lead: what is moved is of no use to anybody, and a leader's own key may be in the way. ]]
local moved = {}
for i, key in ipairs(KEYS) do
  free_key(key, ARGV[i])
  if redis.call('EXISTS', key .. ':aside') == 1 then moved[#moved + 1] = key end
end
return moved
