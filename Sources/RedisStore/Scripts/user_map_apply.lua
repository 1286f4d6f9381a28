-- KEYS: the map. ARGV: stamp, then (entity, set, clear, version) for each event, in any order.
-- Returns the number of fields that changed, or -1 if there is no map.
--
-- A map of another stamp goes. It is absent for everybody now, but the slot may move back, or the server be promoted again, to where it
-- would not be; and it misses these events.

local key = KEYS[1]
local names = { MARKER }
for i = 2, #ARGV, 4 do names[#names + 1] = ARGV[i] end

local texts = {}
for i = 1, #names, CHUNK do
    local last = math.min(i + CHUNK - 1, #names)
    local found = redis.call('HMGET', key, unpack(names, i, last))
    for j = i, last do texts[names[j]] = found[j - i + 1] end
end
local marker = parse_marker(texts[MARKER], ARGV[1])
if not marker then
    if texts[MARKER] then redis.call('DEL', key) end  -- rule: another stamp
    return -1
end

local fields = {}
for i = 2, #ARGV, 4 do
    local entity = ARGV[i]
    fields[entity] = fields[entity] or parse_field(texts[entity], marker.state)
    apply(fields[entity], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]), marker.floor)
end

local write = {}
for entity, field in pairs(fields) do
    local text = format_field(field, marker.floor)
    if #field > 0 and text ~= texts[entity] then
        write[#write + 1] = entity
        write[#write + 1] = text
    end
end
for i = 1, #write, CHUNK do redis.call('HSET', key, unpack(write, i, math.min(i + CHUNK - 1, #write))) end
return #write / 2
