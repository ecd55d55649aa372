-- The key ARGV[3] is not there any more, if the lease ARGV[2] has it.  KEYS[5]: where that lease
-- has somebody.  ARGV[4]: the topic, if it has nobody else there.
local lease, key, topic = ARGV[2], ARGV[3], ARGV[4]
local before = redis.call('HGET', members, key)
if before then
    local owner, user, info = read(before)
    if owner == lease then
        remove(key, user, info)
    end
end
if topic then
    redis.call('SREM', KEYS[5], topic)
end
return 1
