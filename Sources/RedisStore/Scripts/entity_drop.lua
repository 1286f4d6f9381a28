-- KEYS: an entity's counts, then the keys to drop. ARGV: the life of the counts that were looked at, `<stamp>:<nonce>:<tier>:` of
-- their marker; empty if they had no marker, or were no hash.
-- Returns how many keys were there, or -1 if the counts are of another life by now.

local marker = redis.pcall('HGET', KEYS[1], '_')
local life = type(marker) == 'string' and string.match(marker, '^[^:]*:[^:]*:[^:]*:') or ''
if life ~= ARGV[1] then return -1 end

local dropped = 0
for i = 2, #KEYS do dropped = dropped + redis.call('UNLINK', KEYS[i]) end
return dropped
