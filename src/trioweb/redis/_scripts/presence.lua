-- What the scripts about who is in a topic begin with.
--
-- KEYS: members, their users, the version of the last change, and the leases of all nodes.
-- ARGV: the channel for changes.
--
-- Members have a hash: key -> lease, bytes of the user's name, user, info.  Users have one, too:
-- user -> how many keys are theirs.  A lease is in a sorted set, by when it runs out.
local members, users, version, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local channel = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local IDLE = 86400

local function whole(number)
    return string.format('%.0f', number)
end

local known = {}
local function holds(lease)
    if known[lease] == nil then
        known[lease] = tonumber(redis.call('ZSCORE', leases, lease) or 0) > now
    end
    return known[lease]
end

-- Lease, user and info of what stands in the hash.
local function read(value)
    local lease, size, rest = string.match(value, '^(%S+) (%d+):(.*)$')
    return lease, string.sub(rest, 1, tonumber(size)), string.sub(rest, tonumber(size) + 1)
end

-- First of all, as it is refused if there is no memory, and nothing is behind it.
local function next_version()
    local number = redis.call('INCR', version)
    if number == 1 then
        -- Whoever knows a life before this must not take its changes for the next ones.
        number = now
        redis.call('SET', version, whole(number))
    end
    redis.call('EXPIRE', version, IDLE)
    return number
end

local function count(user, more)
    if redis.call('HINCRBY', users, user, more) <= 0 then
        redis.call('HDEL', users, user)
    end
end

local function tell(number, sign, key, user, info)
    redis.call('PUBLISH', channel, table.concat({whole(number), ' ', sign, #key, ':', key, #user, ':',
        user, info}))
end

local function remove(key, user, info)
    local number = next_version()
    redis.call('HDEL', members, key)
    count(user, -1)
    tell(number, '-', key, user, info)
end
