--[[ find_job: go through some of the messages, and name the jobs whose message holds a text.
KEYS[1] messages  HASH  job number -> raw message
ARGV[1] cursor    "0" to begin
ARGV[2] text
ARGV[3] count     about so many messages are looked through
Returns {cursor to go on with, "0" when all was looked through; job number, …}. The text may stand anywhere in a message: the caller
looks into those few. No message leaves Redis, and a call is bounded, so that a search of all of them blocks nobody.
Writes nothing. ]]
local messages = KEYS[1]
local cursor, text, count = ARGV[1], ARGV[2], ARGV[3]
local page = redis.call('HSCAN', messages, cursor, 'COUNT', count)
local found, facts = { page[1] }, page[2]
for i = 1, #facts, 2 do
  if string.find(facts[i + 1], text, 1, true) then found[#found + 1] = facts[i] end
end
return found
