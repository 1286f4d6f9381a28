-- KEYS: an entity's counts, total, flag, list and sample. ARGV: most fields that counts may have; bytes of a list's header.
-- Returns {seconds idle or -1, ms to live, {type of each key}, {field, value, ...}, total, flag, length and header of the list, the
-- same of the sample}, all of one moment. A hash with more fields than counts can have is of type `large`, and is not read.

-- Before anything touches the key. Redis does not tell it under an LFU policy.
local idle = redis.pcall('OBJECT', 'IDLETIME', KEYS[1])
if type(idle) ~= 'number' then idle = -1 end

local types = {}
for i = 1, 5 do types[i] = redis.call('TYPE', KEYS[i]).ok end

local fields = {}
if types[1] == 'hash' then
    if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[1]) then
        types[1] = 'large'
    else
        fields = redis.call('HGETALL', KEYS[1])
    end
end

local function text(i)
    return types[i] == 'string' and redis.call('GETRANGE', KEYS[i], 0, 63) or ''
end

local function length(i)
    return types[i] == 'string' and redis.call('STRLEN', KEYS[i]) or 0
end

local function header(i)
    return types[i] == 'string' and redis.call('GETRANGE', KEYS[i], 0, tonumber(ARGV[2]) - 1) or ''
end

return {
    idle, redis.call('PTTL', KEYS[1]), types, fields, text(2), text(3),
    length(4), header(4), length(5), header(5),
}
