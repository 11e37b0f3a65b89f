-- A life of a node is over, in good order. ARGV: base, node, incarnation.
local base, lease = ARGV[1], ARGV[1] .. 'lease:' .. ARGV[2]
if redis.call('GET', lease) == ARGV[3] then redis.call('DEL', lease) end
local me = ARGV[2] .. ' ' .. ARGV[3]
if redis.call('EXISTS', base .. 's:' .. me) == 0 then redis.call('HDEL', base .. 'lives', me) end
return 1
