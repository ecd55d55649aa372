-- Publish, unless it was; returns the epoch and the offset, 0 for one that has left the log.
--
-- KEYS[4]: number and offset of what the node has published here last.
-- ARGV[10] on: the channel, its number, '1' in a retry, its bytes, its key and '' or its publisher
-- with that as a name of what is published once, the id, then names and values of fields.
local node, channel, number, is_retry = KEYS[4], ARGV[10], tonumber(ARGV[11]), ARGV[12] == '1'
local size, once, id = tonumber(ARGV[13]), ARGV[14], ARGV[16]
local FIELDS = 15

-- Where the node has published this; its numbers grow with the offsets.
local function find(last)
    local own = string.match(id, '^(.*):')
    while last > 0 do
        local entries = redis.call('XREVRANGE', stream, whole(last), '-', 'COUNT', 64)
        for _, entry in ipairs(entries) do
            local other = field(entry, 'i')
            if other == id then
                return offset_of(entry)
            end
            local name, earlier = string.match(other, '^(.*):(%d+)$')
            if name == own and tonumber(earlier) < number then
                return 0
            end
        end
        if #entries == 0 then
            return 0
        end
        last = offset_of(entries[#entries]) - 1
    end
    return 0
end

if is_retry then
    local last, offset = string.match(redis.call('GET', node) or '', '^(%d+):(%d+)$')
    if last and tonumber(last) >= number then
        return {epoch, find(tonumber(offset))}
    end
end
if once ~= '' then
    local offset = tonumber(redis.call('HGET', keys, once) or 0)
    if offset > 0 and at(offset) then
        return {epoch, offset}
    end
end

-- The first of these is refused if there is no memory, and the others are not, then.
redis.call('XADD', stream, whole(head + 1) .. '-0', 'z', whole(total), 'a', whole(now),
    unpack(ARGV, FIELDS))
head, total = head + 1, total + size
redis.call('HSET', record, 's', whole(head), 'b', whole(total))
redis.call('SET', node, whole(number) .. ':' .. whole(head), 'EX', 600)
if once ~= '' then
    redis.call('HSET', keys, once, whole(head))
    redis.call('EXPIRE', keys, idle)
end
-- Most publications need not look for what goes, if a tenth more may stay until then.
local oldest, before, born = tonumber(known[6]), tonumber(known[7]), tonumber(known[8])
if not oldest or head - oldest + 1 > max_messages * 1.1 or total - before > max_bytes * 1.1
    or (max_age and now - born > max_age * 1.1) then
    trim()
end
redis.call('EXPIRE', stream, idle)
keep()
local parts = {whole(head), ' ', epoch, ' '}
for place = FIELDS, #ARGV, 2 do
    local value = ARGV[place + 1]
    parts[#parts + 1] = ARGV[place] .. #value .. ':'
    parts[#parts + 1] = value
end
redis.call('PUBLISH', channel, table.concat(parts))
return {epoch, head}
