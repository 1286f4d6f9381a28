-- KEYS: an entity's keys, counts first. ARGV: the life of the counts that were looked at; seconds to live.
-- Returns 1 if the keys live on together, 0 if the counts are of another life by now.

local marker = redis.pcall('HGET', KEYS[1], '_')
local life = type(marker) == 'string' and string.match(marker, '^[^:]*:[^:]*:[^:]*:') or ''
if life ~= ARGV[1] then return 0 end

for i = 1, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[2]) end
return 1
