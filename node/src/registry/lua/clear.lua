-- Removes rows of one life of a node: those of writings before a number, or, if the number is "", all of them, when that life is over.
-- ARGV: base, node, incarnation, number, cursor, about how many to look at, length of the log.
local base, me = ARGV[1], ARGV[2] .. ' ' .. ARGV[3]
local index = base .. 's:' .. me
local all = ARGV[4] == ''
if all then
  if redis.call('GET', base .. 'lease:' .. ARGV[2]) == ARGV[3] then return {'0', 0, 0, 1} end
  if redis.call('HDEL', base .. 'lives', me) == 1 then redis.call('SADD', base .. 'dead', me) end
end
local scan = redis.call('SSCAN', index, ARGV[5], 'COUNT', ARGV[6])
local entries = {}
for _, full in ipairs(scan[2]) do
  local slash = string.find(full, '/', 1, true)
  local key, resource = base .. 'u:' .. string.sub(full, 1, slash - 1), string.sub(full, slash + 1)
  local known = redis.call('HGET', key, resource)
  local life, writing, generation
  if known then life, writing, generation = string.match(known, '^(%S+ %d+) (%d+) (%x+) ') end
  local ours = life == me
  if ours and (all or tonumber(writing) < tonumber(ARGV[4])) then
    redis.call('HDEL', key, resource)
    entries[#entries + 1] = 'u ' .. me .. ' ' .. generation .. ' ' .. full
    ours = false
  end
  if not ours then redis.call('SREM', index, full) end
end
if #entries > 0 then
  local last = redis.call('INCRBY', base .. 'seq', #entries)
  for i, entry in ipairs(entries) do
    local id = string.format('%.0f-1', last - #entries + i)
    local added = redis.pcall('XADD', base .. 'log', 'MAXLEN', '~', ARGV[7], id, 'e', entry)
    if type(added) == 'table' and added.err then
      redis.call('DEL', base .. 'log')
      redis.call('SET', base .. 'life', me .. ' cleared ' .. id)
      redis.call('XADD', base .. 'log', id, 'e', entry)
    end
  end
end
if all and scan[1] == '0' and redis.call('EXISTS', index) == 0 then redis.call('SREM', base .. 'dead', me) end
return {scan[1], #scan[2], #entries, 0}
