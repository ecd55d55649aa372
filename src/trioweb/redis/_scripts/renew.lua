-- Have the lease ARGV[1] hold for ARGV[2] milliseconds: whether it is new, and another that has run
-- out, with some topics where it may have somebody.
--
-- KEYS: the leases.  ARGV[3]: what the names of the sets begin with in which those topics are.
local leases, lease = KEYS[1], ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local before = tonumber(redis.call('ZSCORE', leases, lease) or 0)
redis.call('ZADD', leases, string.format('%.0f', now + ARGV[2]), lease)
local is_new = before <= now and 1 or 0
for _, other in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 100)) do
    local topics = redis.call('SRANDMEMBER', ARGV[3] .. other, 100)
    if #topics > 0 then
        return {is_new, other, topics}
    end
    redis.call('ZREM', leases, other)
end
return {is_new, '', {}}
