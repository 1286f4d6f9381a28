-- KEYS: an entity's counts, total, flag, list and sample. ARGV: most fields that counts may have; bytes of a list's header, and of a
-- record before its flags; most bytes that a list may have to be read; 1 to tell lists whole.
-- Returns {seconds idle or -1, ms to live, {type of each key}, {field, value, ...}, total, flag, list, sample}, all of one moment. A list
-- is {bytes, what was read of it, {place, byte, times, ...}}: how often each byte is at each place of the records' flags; nothing of the
-- kind of a list that is too long. Of a hash with more fields than counts can have, which is of type `large`, the marker is all that is read.

-- Before anything touches the key. Redis does not tell it under an LFU policy.
local idle = redis.pcall('OBJECT', 'IDLETIME', KEYS[1])
if type(idle) ~= 'number' then idle = -1 end

local types = {}
for i = 1, 5 do types[i] = redis.call('TYPE', KEYS[i]).ok end

local fields = {}
if types[1] == 'hash' then
    if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[1]) then
        types[1] = 'large'
        local marker = redis.call('HGET', KEYS[1], '_')
        if marker then fields = {'_', marker} end
    else
        fields = redis.call('HGETALL', KEYS[1])
    end
end

local function text(i)
    return types[i] == 'string' and redis.call('GETRANGE', KEYS[i], 0, 63) or ''
end

local header, before, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local byte = string.byte

local function list(i)
    if types[i] ~= 'string' then return {0, '', {}} end
    local length = redis.call('STRLEN', KEYS[i])
    if length < header or length > most then return {length, redis.call('GETRANGE', KEYS[i], 0, header - 1), {}} end
    local whole = redis.call('GET', KEYS[i])
    local tally, width = {}, byte(whole, 2)
    for place = 1, width <= 4 and width or 0 do
        local times = {}
        for at = header + before + place, length, before + width do
            local found = byte(whole, at)
            times[found] = (times[found] or 0) + 1
        end
        for found, count in pairs(times) do
            tally[#tally + 1] = place
            tally[#tally + 1] = found
            tally[#tally + 1] = count
        end
    end
    return {length, ARGV[5] == '1' and whole or string.sub(whole, 1, header), tally}
end

return {idle, redis.call('PTTL', KEYS[1]), types, fields, text(2), text(3), list(4), list(5)}
