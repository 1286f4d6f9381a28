-- KEYS: the map. ARGV: stamp, nonce for a fresh map, TTL in s, greatest age in s, lease in ms, limit of a partial map.
-- Returns {nonce, state, granted}.

local key, stamp = KEYS[1], ARGV[1]
local marker = parse_marker(redis.call('HGET', key, MARKER), stamp)
local time = redis.call('TIME')
local now = tonumber(time[1])
local now_ms = now * 1000 + math.floor(tonumber(time[2]) / 1000)

if marker and now - marker.filled >= tonumber(ARGV[4]) then marker = nil end
if marker and marker.state == 'p' and redis.call('HLEN', key) > tonumber(ARGV[6]) + 1 then marker = nil end

if marker and (marker.state ~= 'n' or marker.lease > now_ms) then
    return { marker.nonce, marker.state, marker.state == 'n' and 0 or 1 }
end

-- With a lease the marker is longer than the 64 bytes (hash-max-listpack-value) up to which Redis keeps a hash as a
-- listpack. A hash table stays one, and HMGET does not search it from its start for each field.
local is_fresh = not marker
if is_fresh then
    marker = { stamp = stamp, nonce = ARGV[2], floor = 0, state = 'n', filled = now, touched = now }
end
marker.lease = now_ms + tonumber(ARGV[5])
redis.call('HSET', key, MARKER, format_marker(marker))
if is_fresh then
    -- What was there goes field by field. A key that goes as a whole while its slot is on its way cannot be made again by a script.
    local gone = {}
    for _, name in ipairs(redis.call('HKEYS', key)) do if name ~= MARKER then gone[#gone + 1] = name end end
    for i = 1, #gone, CHUNK do redis.call('HDEL', key, unpack(gone, i, math.min(i + CHUNK - 1, #gone))) end
    redis.call('EXPIRE', key, ARGV[3])
end
return { marker.nonce, marker.state, 1 }
