-- KEYS: the map. ARGV: stamp, nonce, floor, state, then (entity, field) for each entity.
-- Returns 1 if the fill was stored, 0 if the map is another one than at the miss.

local key = KEYS[1]
local marker = parse_marker(redis.call('HGET', key, MARKER), ARGV[1])
if not marker then return 0 end
if marker.nonce ~= ARGV[2] then return 0 end  -- rule: nonce

local floor, fills_all = tonumber(ARGV[3]), ARGV[4] == 'c'
local old_floor, old_state = marker.floor, marker.state
marker.floor = floor
if old_floor > floor then marker.floor = old_floor end  -- rule: floor never falls
marker.state = (fills_all or old_state == 'c') and 'c' or 'p'
marker.lease = 0

local first, write = 5, ARGV
local gone = {}

-- A map that holds nothing yet takes the fields as they are; any other is merged with them.
if old_state == 'c' or redis.call('HLEN', key) > 1 then
    local old, new = {}, {}
    for i = 5, #ARGV, 2 do new[ARGV[i]] = ARGV[i + 1] end
    if fills_all then
        local all = redis.call('HGETALL', key)
        for i = 1, #all, 2 do old[all[i]] = all[i + 1] end
        old[MARKER] = nil
        for entity in pairs(old) do new[entity] = new[entity] or '0' end
    else
        local entities = {}
        for entity in pairs(new) do entities[#entities + 1] = entity end
        for i = 1, #entities, CHUNK do
            local last = math.min(i + CHUNK - 1, #entities)
            local texts = redis.call('HMGET', key, unpack(entities, i, last))
            for j = i, last do old[entities[j]] = texts[j - i + 1] or nil end
        end
    end
    first, write = 1, {}
    for entity, text in pairs(new) do
        local field = merge(parse_field(old[entity], old_state), old_floor, parse_field(text), floor)
        text = format_field(field, marker.floor)
        if text == '0' and marker.state == 'c' then
            if old[entity] then gone[#gone + 1] = entity end
        elseif text ~= old[entity] then
            write[#write + 1] = entity
            write[#write + 1] = text
        end
    end
end

for i = first, #write, CHUNK do redis.call('HSET', key, unpack(write, i, math.min(i + CHUNK - 1, #write))) end
for i = 1, #gone, CHUNK do redis.call('HDEL', key, unpack(gone, i, math.min(i + CHUNK - 1, #gone))) end
redis.call('HSET', key, MARKER, format_marker(marker))
return 1
