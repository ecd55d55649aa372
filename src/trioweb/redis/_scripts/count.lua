-- How many keys and how many users there are.
return {redis.call('HLEN', members), redis.call('HLEN', users)}
