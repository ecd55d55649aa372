-- Whom leases hold, from the cursor ARGV[2] on: the version, the next cursor, then key, user and
-- info by turns.
local page = redis.call('HSCAN', members, ARGV[2], 'COUNT', 256)
local found = {tonumber(redis.call('GET', version) or 0), page[1]}
for place = 1, #page[2], 2 do
    local lease, user, info = read(page[2][place + 1])
    if holds(lease) then
        found[#found + 1] = page[2][place]
        found[#found + 1] = user
        found[#found + 1] = info
    end
end
return found
