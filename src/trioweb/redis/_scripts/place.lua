-- Where the topic stands, for a node that has it up to the entry ARGV[12] at the offset ARGV[11] in
-- the epoch ARGV[10]: epoch, head, begin, oldest, the time, and the entries behind what it has, or
-- false if they take more than ARGV[13] bytes.
local theirs, offset, id = ARGV[10], tonumber(ARGV[11]), ARGV[12]
local room = tonumber(ARGV[13])

-- A log that has not what the node has has lost it.
if theirs == epoch then
    local there = offset > 0 and at(offset)
    if offset > head or (there and id ~= '' and field(there, 'i') ~= id) then
        begin_life()
    end
end
local oldest = trim()
keep()
local cursor = head
if theirs == epoch then
    cursor = offset
elseif theirs ~= '' then
    cursor = begin
end
local behind = {}
if cursor < head then
    local first = redis.call('XRANGE', stream, whole(cursor + 1), '+', 'COUNT', 1)[1]
    if first and total - field(first, 'z') > room then
        behind = false
    else
        behind = between(cursor + 1, head)
    end
end
return {epoch, head, begin, oldest, now, behind}
