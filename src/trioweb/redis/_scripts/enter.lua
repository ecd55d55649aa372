-- The key ARGV[3] is there under the lease ARGV[2], as the user ARGV[4] with the info ARGV[5].
-- KEYS[5]: where that lease has somebody.  ARGV[6]: the topic.
local lease, key, user, info, topic = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local value = table.concat({lease, ' ', #user, ':', user, info})
local before = redis.call('HGET', members, key)
local _, old_user, old_info
if before then
    _, old_user, old_info = read(before)
end
local is_news = old_user ~= user or old_info ~= info
local number = is_news and next_version()
redis.call('HSET', members, key, value)
redis.call('SADD', KEYS[5], topic)
-- Without one that holds, it is to be found by whoever clears up.
redis.call('ZADD', leases, 'NX', whole(now), lease)
if old_user ~= user then
    count(user, 1)
    if old_user then
        count(old_user, -1)
    end
end
if is_news then
    tell(number, '+', key, user, info)
end
return 1
