-- What all scripts begin with: where a topic stands, and what it retains.
--
-- KEYS: its record, its stream, what was published with a key.
-- ARGV: the engine's run, '1' if it is durable, what the name of a new epoch begins with,
-- messages, bytes and milliseconds ('' for no bound) to retain, seconds to keep what is idle,
-- the generation of the list of engines, and the one since which the topic has been at this one.
--
-- The record: e epoch, s head, l run of the process that served it last, v generation then, o offset
-- behind which the epoch began, b bytes of all that was ever published; and as they were when it was last
-- trimmed f the oldest offset, g the bytes before that, t its time.
-- An entry of the stream has its offset as its id: z bytes of all before it, a its time,
-- then what the node has given.
local record, stream, keys = KEYS[1], KEYS[2], KEYS[3]
local run, is_durable = ARGV[1], ARGV[2] == '1'
local max_messages, max_bytes, max_age = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local idle, generation, since = tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local epoch, head, begin, total

local function whole(number)
    return string.format('%.0f', number)
end

local function offset_of(entry)
    return tonumber(string.match(entry[1], '^%d+'))
end

local function field(entry, name)
    local fields = entry[2]
    for place = 1, #fields, 2 do
        if fields[place] == name then
            return fields[place + 1]
        end
    end
    return false
end

local function at(offset)
    return redis.call('XRANGE', stream, whole(offset), whole(offset))[1]
end

local function between(first, last)
    if first > last then
        return {}
    end
    return redis.call('XRANGE', stream, whole(first), whole(last))
end

-- Under which what was published once stands in `keys`; false without a key.
local function once_of(key, publisher)
    return key and (publisher and #publisher .. ':' .. publisher or ':') .. key
end

local function begin_life()
    -- With the time, as a connection may begin several.
    epoch, begin = ARGV[3] .. string.format('%x%05x', clock[1], clock[2]), head
    redis.call('HSET', record, 'e', epoch, 's', whole(head), 'l', run, 'v', generation,
        'o', whole(begin), 'b', whole(total))
end

local known = redis.call('HMGET', record, 'e', 's', 'l', 'o', 'b', 'f', 'g', 't', 'v')
epoch, head, begin, total = known[1], tonumber(known[2] or 0), tonumber(known[4] or 0),
    tonumber(known[5] or 0)
if not epoch then
    -- First what is refused if there is no memory: once something was done, nothing is.
    begin_life()
    -- A stream whose record is gone would not take the offsets of a new one.
    redis.call('DEL', stream, keys)
elseif known[3] ~= run or known[9] ~= generation then
    local seen = tonumber(known[9] or 0)
    if seen > tonumber(generation) then
        return redis.error_reply('TRYAGAIN the nodes have another list of engines by now')
    elseif seen < since or (known[3] ~= run and not is_durable) then
        begin_life()
    else
        redis.call('HSET', record, 'l', run, 'v', generation)
    end
end

-- The epoch must outlive the log.
local function keep()
    redis.call('EXPIRE', record, idle * 30)
end

-- The first offset from low to high whose entry fits; high if there is none.
local function first_fitting(low, high, fits)
    while low < high do
        local middle = math.floor((low + high) / 2)
        local entry = at(middle)
        if entry and fits(entry) then
            high = middle
        else
            low = middle + 1
        end
    end
    return low
end

local function forget_keys(first, last)
    if redis.call('EXISTS', keys) == 0 then
        return
    end
    while first <= last do
        for _, entry in ipairs(between(first, math.min(first + 99, last))) do
            local once = once_of(field(entry, 'k'), field(entry, 'p'))
            if once and redis.call('HGET', keys, once) == whole(offset_of(entry)) then
                redis.call('HDEL', keys, once)
            end
        end
        first = first + 100
    end
end

-- Keep exactly what is retained; return the oldest offset of that, head + 1 for none.
local function trim()
    local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    if not oldest then
        redis.call('HDEL', record, 'f', 'g', 't')
        return head + 1
    end
    local begins = offset_of(oldest)
    local first = math.max(begins, head - max_messages + 1)
    -- The newest is kept, whatever its size.
    first = first_fitting(first, head, function(entry)
        return total - field(entry, 'z') <= max_bytes
    end)
    if max_age then
        first = first_fitting(first, head + 1, function(entry)
            return field(entry, 'a') + max_age > now
        end)
    end
    if first > begins then
        forget_keys(begins, first - 1)
        redis.call('XTRIM', stream, 'MINID', whole(first))
        oldest = at(first)
    end
    if oldest then
        redis.call('HSET', record, 'f', whole(first), 'g', field(oldest, 'z'),
            't', field(oldest, 'a'))
    else
        redis.call('HDEL', record, 'f', 'g', 't')
    end
    return first
end
