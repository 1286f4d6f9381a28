-- A model of everything that touches one user's map of two entities and two kinds. A schedule is a random interleaving
-- of the steps of PostgreSQL, the agent, readers and Redis; the scripts run as they are. The caller has set `sources`
-- (script texts by name) and `off` (rules switched off).
--
-- What is checked: a known answer of the map is, kind by kind, never older than what the agent has applied and never
-- what no committed transaction made; at rest it is the truth; and one more miss makes it known.

counts = {}

function count(name) counts[name] = (counts[name] or 0) + 1 end

function decimal(number) return string.format('%.0f', number) end

-- Lehmer's generator: the same schedule on every machine.
local function make_random(seed)
    local state = (seed * 48271 + 7) % 2147483647
    local function random(n)
        state = state * 16807 % 2147483647
        return state % n + 1
    end
    for _ = 1, 5 do random(2) end
    return random
end

local function add_checks(world)
    local function fail(what, entity, flags)
        error(string.format('%s: entity %d has flags %d', what, entity, flags), 0)
    end

    -- The kinds of `flags` have to be values that were true at or after the versions `since`.
    function world.check(entity, flags, since, what)
        for _, kind in ipairs(KINDS) do
            local value = bit.band(flags, kind) > 0 and 1 or 0
            local past = world.history[slot(entity, kind)]
            local is_possible = false
            for i = #past, 1, -1 do
                is_possible = is_possible or past[i].value == value
                if is_possible or past[i].version <= since[slot(entity, kind)] then break end
            end
            if not is_possible then fail(what, entity, flags) end
        end
    end

    function world.check_rest(what)
        local found = world.answers()
        for entity, flags in pairs(found) do
            if flags ~= world.truth(entity) then fail(what, entity, flags) end
        end
        return found
    end
end

local function schedule(seed)
    local random = make_random(seed)
    local world = { random = random }
    function world.chance(n) return random(n) == 1 end
    local chance = world.chance
    add_redis(world)
    add_postgres(world)
    add_agent(world)
    add_readers(world)
    add_checks(world)

    local common = {
        world.change, world.change, world.finish, world.flush, world.truncate, world.apply_late,
        world.read, world.read, world.read, world.read_undisturbed,
    }
    local agents = {
        { world.mirror, world.mirror, world.progress },
        { world.mirror, world.look, world.form, world.offer, world.confirm, world.offer_removals, world.finish_batch },
    }
    for _, action in ipairs(agents[random(2)]) do common[#common + 1] = action end
    local troubles = {
        { world.evict }, { world.save, world.restart }, { world.raise, world.give_up }, { world.crash },
        { world.wait }, { world.evict, world.restart, world.raise, world.wait }, { world.move },
    }
    local rare, calm = troubles[random(#troubles)], 5 + random(30)
    if world.is_removing and chance(2) then
        -- A map of the raised epoch that is made before ClickHouse knows who is gone.
        local function raise_and_read()
            world.raise()
            world.read_undisturbed()
        end
        rare = { raise_and_read, raise_and_read, world.give_up }
    end
    for _ = 1, 45 + random(30) do
        local actions = chance(calm) and rare or common
        actions[random(#actions)]()
    end

    -- Coming to rest: nothing new begins, and what is on its way arrives in any order; in half of the schedules the
    -- late applies arrive when everything else is over.
    world.writes_left, world.is_busy = 0, false
    while world.writer() do world.finish() end
    for _ = 1, 3 do
        world.look()
        world.form()
    end
    local closing = { world.progress, world.progress, world.read, world.read }
    if chance(2) then closing[5] = world.apply_late end
    while not world.is_mirrored() or world.is_reading() do closing[random(#closing)]() end
    world.truncate()
    world.reads_left = 2
    while not world.is_quiet() or world.is_reading() do
        if not chance(3) or not world.apply_late() then world.read() end
    end

    world.check_rest('lasting error')
    redis.clock_ms = redis.clock_ms + 1500  -- the end of any lease
    local reader = world.read_undisturbed()
    local found = world.check_rest('lasting error after one more miss')
    for _, entity in ipairs(reader.unknown) do
        if not found[entity] then error(string.format('entity %d is unknown after a miss', entity), 0) end
    end
end

-- Runs `number` schedules; returns the seed and the message of the first that fails, or nothing.
function search(first_seed, number)
    for seed = first_seed, first_seed + number - 1 do
        local is_good, message = pcall(schedule, seed)
        if not is_good then return seed, message end
    end
end
