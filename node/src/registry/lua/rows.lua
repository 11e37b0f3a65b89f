-- The rows of a user that count: those of lives whose lease is there. KEYS: the user's hash. ARGV: base.
local all = redis.call('HGETALL', KEYS[1])
local leases, found = {}, {}
for i = 1, #all, 2 do
  local node, incarnation = string.match(all[i + 1], '^(%S+) (%d+) ')
  if node then
    if leases[node] == nil then leases[node] = redis.call('GET', ARGV[1] .. 'lease:' .. node) end
    if leases[node] == incarnation then
      found[#found + 1] = all[i]
      found[#found + 1] = all[i + 1]
    end
  end
end
return found
