-- Redis as the scripts see it: one hash, a clock, and no key but the declared one.

local floor, format = math.floor, string.format

redis = { map = nil, clock_ms = 0 }
KEYS = { 'map' }

-- `bit.band` for masks of two kinds.
local AND = {}
for a = 0, 3 do
    for b = 0, 3 do AND[a * 4 + b] = math.min(a % 2, b % 2) + 2 * math.min(floor(a / 2), floor(b / 2)) end
end

bit = { band = function(a, b) return AND[a * 4 + b] end }

local commands = {
    HGET = function(field) return redis.map and redis.map[field] or false end,
    HMGET = function(...)
        local values = {}
        for i = 1, select('#', ...) do values[i] = redis.map and redis.map[select(i, ...)] or false end
        return values
    end,
    HGETALL = function()
        local values = {}
        for field, value in pairs(redis.map or {}) do
            values[#values + 1] = field
            values[#values + 1] = value
        end
        return values
    end,
    HKEYS = function()
        local names = {}
        for field in pairs(redis.map or {}) do names[#names + 1] = field end
        return names
    end,
    HSET = function(...)
        assert(not redis.is_gone, 'a key that the script has let go')
        redis.map = redis.map or {}
        for i = 1, select('#', ...), 2 do
            local field, value = select(i, ...)
            assert(type(field) == 'string' and type(value) == 'string', 'HSET of what is not a string')
            redis.map[field] = value
        end
    end,
    HDEL = function(...)
        for i = 1, select('#', ...) do redis.map[select(i, ...)] = nil end
    end,
    HLEN = function()
        local length = 0
        for _ in pairs(redis.map or {}) do length = length + 1 end
        return length
    end,
    DEL = function() redis.map, redis.is_gone = nil, true end,
    EXPIRE = function() end,
}

function redis.call(name, key, ...)
    if name == 'TIME' then
        local ms = redis.clock_ms
        return { format('%.0f', floor(ms / 1000)), format('%.0f', ms % 1000 * 1000) }
    end
    assert(key == KEYS[1], 'a key that was not declared')
    return commands[name](...)
end

local scripts = {}
for name, text in pairs(sources) do scripts[name] = assert(loadstring(text, name)) end

function redis.run(name, arguments)
    ARGV, redis.is_gone = arguments, false
    return scripts[name]()
end

-- What happens to a Redis: adds evict, save, restart, move and wait to the world.
function add_redis(world)
    local random, chance = world.random, world.chance
    local image

    redis.map, redis.clock_ms = nil, 1e12
    -- The server that has the map, and the one that it moves to and comes back from.
    world.run_id, world.other_id = 1, 2
    local newest_id = 2

    local function copy(from)
        if not from then return nil end
        local to = {}
        for field, value in pairs(from) do to[field] = value end
        return to
    end

    function world.stamp(epoch) return format('%x', world.run_id * 4096 + epoch) end

    function world.evict() redis.map = nil end

    function world.save() image = copy(redis.map) end

    -- Comes back empty or with an old file.
    function world.restart()
        newest_id = newest_id + 1
        world.run_id = newest_id
        redis.map = chance(3) and copy(image) or nil
    end

    -- The map's slot moves, and the map with it.
    function world.move()
        world.run_id, world.other_id = world.other_id, world.run_id
        count('moves')
    end

    function world.wait() redis.clock_ms = redis.clock_ms + (chance(20) and 3600000 or random(1500)) end
end
