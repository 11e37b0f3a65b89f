-- What follows a number in the log. ARGV: base, number, how many at most. Answers the log's name, its last number, whether what follows is
-- gone, and the entries.
local base, cursor = ARGV[1], tonumber(ARGV[2])
local life = redis.call('GET', base .. 'life') or ''
local head = tonumber(redis.call('GET', base .. 'seq') or '0')
if cursor == head then return {life, head, 0, {}} end
local next = string.format('%.0f-1', cursor + 1)
local found = redis.call('XRANGE', base .. 'log', next, '+', 'COUNT', ARGV[3])
if cursor > head or #found == 0 or found[1][1] ~= next then return {life, head, 1, {}} end
local entries = {}
for i, entry in ipairs(found) do entries[i] = entry[2][2] end
return {life, head, 0, entries}
