-- A node says that it lives, and hears who else does. ARGV: base, node, incarnation, record, lease in ms, a new name for the log,
-- version and JSON of the platform's nodes ("" when they need not be written), whether the log is to have the new name.
local base, node, incarnation = ARGV[1], ARGV[2], ARGV[3]
local held = redis.call('GET', base .. 'lease:' .. node)
local superseded = (held and tonumber(held) > tonumber(incarnation)) and 1 or 0
local life = redis.call('GET', base .. 'life')
if not life or ARGV[9] == '1' then
  life = ARGV[6]
  redis.call('SET', base .. 'life', life)
end
if superseded == 0 then
  redis.call('SET', base .. 'lease:' .. node, incarnation, 'PX', ARGV[5])
  if redis.call('HGET', base .. 'nodes', node) ~= ARGV[4] then
    redis.call('HSET', base .. 'nodes', node, ARGV[4])
  end
end
local known = redis.call('HGET', base .. 'map', 'version')
if ARGV[8] ~= '' and (not known or tonumber(known) < tonumber(ARGV[7])) then
  redis.call('HSET', base .. 'map', 'version', ARGV[7], 'nodes', ARGV[8])
end
local nodes = redis.call('HGETALL', base .. 'nodes')
local records, keys = {}, {}
for i = 1, #nodes, 2 do
  keys[#keys + 1] = base .. 'lease:' .. nodes[i]
  records[#records + 1] = nodes[i + 1]
end
local leases = {}
if #keys > 0 then
  leases = redis.call('MGET', unpack(keys))
end
return {superseded, life, records, leases, redis.call('HGETALL', base .. 'lives'), redis.call('SMEMBERS', base .. 'dead'),
  redis.call('HGET', base .. 'map', 'nodes')}
