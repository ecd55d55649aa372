-- What lies behind ARGV[8], up to and including ARGV[9]: epoch, oldest, the time, the entries.
local oldest = trim()
keep()
return {epoch, oldest, now, between(tonumber(ARGV[8]) + 1, math.min(tonumber(ARGV[9]), head))}
