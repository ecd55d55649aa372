-- Remove whom no lease holds, from the cursor ARGV[3] on, and return where to go on.  In the end
-- forget that the lease ARGV[2], which has run out, has had anybody in the topic ARGV[4]: KEYS[5].
if holds(ARGV[2]) then
    return '0'
end
local page = redis.call('HSCAN', members, ARGV[3], 'COUNT', 256)
for place = 1, #page[2], 2 do
    local lease, user, info = read(page[2][place + 1])
    if not holds(lease) then
        remove(page[2][place], user, info)
    end
end
if page[1] == '0' then
    redis.call('SREM', KEYS[5], ARGV[4])
end
return page[1]
