-- What lies behind ARGV[10], up to and including ARGV[11]: epoch, oldest, the time, the entries.
local oldest = trim()
keep()
return {epoch, oldest, now, between(tonumber(ARGV[10]) + 1, math.min(tonumber(ARGV[11]), head))}
