-- Appends to the log. ARGV: base, length of the log, entries.
local base = ARGV[1]
if #ARGV == 2 then return tonumber(redis.call('GET', base .. 'seq') or '0') end
local last = redis.call('INCRBY', base .. 'seq', #ARGV - 2)
for i = 3, #ARGV do
  local id = string.format('%.0f-1', last - #ARGV + i)
  redis.call('XADD', base .. 'log', 'MAXLEN', '~', ARGV[2], id, 'e', ARGV[i])
end
return last
