-- KEYS: the map. ARGV: stamp, nonce, TTL in s, greatest age in s.
-- Returns 1 if the map's time to live was refreshed, else 0.

local key = KEYS[1]
local marker = parse_marker(redis.call('HGET', key, MARKER), ARGV[1])
if not marker or marker.nonce ~= ARGV[2] then return 0 end

local now = tonumber(redis.call('TIME')[1])
local left = math.min(tonumber(ARGV[3]), marker.filled + tonumber(ARGV[4]) - now)
if left <= 0 then return 0 end
marker.touched = now
redis.call('HSET', key, MARKER, format_marker(marker))
redis.call('EXPIRE', key, left)
return 1
