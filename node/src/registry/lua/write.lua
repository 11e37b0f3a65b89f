-- Writes changed rows of one life of a node, and as many entries of the log. ARGV: base, node, incarnation, number of the batch, length of
-- the log; then for each change "b", full JID, row; or "u", full JID, generation.
local base, me = ARGV[1], ARGV[2] .. ' ' .. ARGV[3]
local index = base .. 's:' .. me
redis.call('HSET', base .. 'lives', me, ARGV[4])
redis.call('SREM', base .. 'dead', me)
local function life_of(row) return string.match(row, '^(%S+ %d+) ') end
local function generation_of(row) return string.match(row, '^%S+ %d+ %d+ (%x+) ') end
local function without_writing(row) return string.gsub(row, '^(%S+ %d+) %d+ ', '%1 ', 1) end
local function counts(row)
  local node, incarnation = string.match(row, '^(%S+) (%d+) ')
  return redis.call('GET', base .. 'lease:' .. node) == incarnation
end
local entries = {}
for i = 6, #ARGV, 3 do
  local full, said = ARGV[i + 1], ARGV[i + 2]
  local slash = string.find(full, '/', 1, true)
  local key, resource = base .. 'u:' .. string.sub(full, 1, slash - 1), string.sub(full, slash + 1)
  local known = redis.call('HGET', key, resource)
  local ours = known and life_of(known) == me
  if ARGV[i] == 'b' then
    -- The newer bind of one full JID stands, unless who holds it is dead.
    if not known or ours or generation_of(known) < generation_of(said) or not counts(known) then
      redis.call('SADD', index, full)
      redis.call('HSET', key, resource, said)
      if not known or without_writing(known) ~= without_writing(said) then
        entries[#entries + 1] = 'b ' .. said .. ' ' .. full
      end
    end
  else
    if ours and generation_of(known) <= said then
      redis.call('HDEL', key, resource)
      entries[#entries + 1] = 'u ' .. me .. ' ' .. said .. ' ' .. full
      ours = false
    end
    if not ours then redis.call('SREM', index, full) end
  end
end
if #entries > 0 then
  local last = redis.call('INCRBY', base .. 'seq', #entries)
  for i, entry in ipairs(entries) do
    local id = string.format('%.0f-1', last - #entries + i)
    local added = redis.pcall('XADD', base .. 'log', 'MAXLEN', '~', ARGV[5], id, 'e', entry)
    if type(added) == 'table' and added.err then
      -- Its numbers went back: the log begins anew, and whoever follows it reads all rows.
      redis.call('DEL', base .. 'log')
      redis.call('SET', base .. 'life', me .. ' ' .. ARGV[4])
      redis.call('XADD', base .. 'log', id, 'e', entry)
    end
  end
end
return #entries
