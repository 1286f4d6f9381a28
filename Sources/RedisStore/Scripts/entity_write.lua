-- Writes entities of one shard whole, or drops them. KEYS: the shard's watermark, then each entity's keys in the order of
-- KeySpace.entitySuffixes: counts, total, viral, list of the regular tier, list of the viral one. ARGV: the watermark before ('' for
-- none), the watermark after, TTL in s, then for each entity the marker from which the new values were computed ('' for none), its
-- tier ('r', 'v', or '-' to drop it), its total, its packed list, how many texts follow, and these: fields and values of the counts.
-- Returns 0, and has written nothing, if the watermark is another one; else a number for each entity: 1 written, 0 left alone
-- because its marker is another one, -1 left alone because the key of its counts is of another type.

local KEYS_PER_ENTITY, HEADER = 5, 5

-- A key of another type reads as none: writing replaces it.
local watermark = redis.pcall('GET', KEYS[1])
if type(watermark) == 'table' then watermark = false end
if (watermark or '') ~= ARGV[1] then return 0 end

-- Everything is checked before anything is written: what a script has written it does not take back.
local starts, states = {}, {}
local arg = 4
for key = 2, #KEYS, KEYS_PER_ENTITY do
    local marker = redis.pcall('HGET', KEYS[key], '_')
    local state = (marker or '') == ARGV[arg] and 1 or 0
    if type(marker) == 'table' then state = -1 end
    states[#states + 1] = state
    starts[#starts + 1] = arg
    arg = arg + HEADER + tonumber(ARGV[arg + 4])
end

local ttl = ARGV[3]
for i, state in ipairs(states) do
    if state == 1 then
        local key, first = 2 + (i - 1) * KEYS_PER_ENTITY, starts[i]
        local tier = ARGV[first + 1]
        redis.call('UNLINK', unpack(KEYS, key, key + KEYS_PER_ENTITY - 1))
        if tier ~= '-' then
            local fields = first + HEADER
            redis.call('HSET', KEYS[key], unpack(ARGV, fields, fields + tonumber(ARGV[first + 4]) - 1))
            redis.call('EXPIRE', KEYS[key], ttl)
            redis.call('SET', KEYS[tier == 'r' and key + 3 or key + 4], ARGV[first + 3], 'EX', ttl)
            if tier == 'v' then
                redis.call('SET', KEYS[key + 1], ARGV[first + 2], 'EX', ttl)
                redis.call('SET', KEYS[key + 2], '1', 'EX', ttl)
            end
        end
    end
end
redis.call('SET', KEYS[1], ARGV[2])
return states
