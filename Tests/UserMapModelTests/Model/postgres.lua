-- PostgreSQL: transactions that change two kinds of two entities, versions, snapshots, the outbox, and crashes. Where the
-- truth is ClickHouse, one of the entities or the user may be gone: an event in the outbox that nobody reads there.

local BASE = 500 * 2 ^ 44  -- versions of a high generation: they must be exact in a Lua number
KINDS = { 1, 2 }
ENTITIES = { 1, 2 }

-- The name of one (entity, kind).
function slot(entity, kind) return entity * 4 + kind end

-- Calls `visit` with each slot that the event changes, and its new value.
function each_kind(event, visit)
    for _, entity in ipairs(event.removed or { event.entity }) do
        for _, kind in ipairs(KINDS) do
            if bit.band(event.set, kind) > 0 then
                visit(slot(entity, kind), 1)
            elseif bit.band(event.clear, kind) > 0 then
                visit(slot(entity, kind), 0)
            end
        end
    end
end

-- The events that say what is said of single reactions, and those that say that the user or an entity is gone.
function divide(events)
    local changes, removals = {}, {}
    for _, event in ipairs(events) do
        local to = event.removed and removals or changes
        to[#to + 1] = event
    end
    return changes, removals
end

function add_postgres(world)
    local random, chance = world.random, world.chance
    local is_async = chance(3)
    world.is_archived = chance(2)  -- the truth is ClickHouse under the outbox, else the table
    world.is_removing = world.is_archived and chance(2)
    local next_xid, last_completed = 100, 99
    local running = {}  -- transactions, in no order
    local locks = {}    -- slot → the transaction that has changed it: version order is commit order per slot

    world.commits = {}  -- the events of each commit
    world.flushed = 0   -- how many of the commits a crash would keep
    world.outbox = {}   -- committed events that were not yet truncated
    world.last_version, world.floor, world.epoch = BASE, 0, 1
    world.writes_left = 3 + random(7)
    world.history = {}  -- slot → {version, value} of every committed change, in order
    for _, entity in ipairs(ENTITIES) do
        for _, kind in ipairs(KINDS) do world.history[slot(entity, kind)] = { { version = 0, value = 0 } } end
    end

    function world.truth(entity)
        local flags = 0
        for _, kind in ipairs(KINDS) do
            local past = world.history[slot(entity, kind)]
            flags = flags + past[#past].value * kind
        end
        return flags
    end

    -- As PostgreSQL does: xmax follows the last completed transaction, and running ones at or above it do not count.
    function world.snapshot()
        local xmax = last_completed + 1
        local xmin = xmax
        for _, transaction in ipairs(running) do xmin = math.min(xmin, transaction.xid) end
        return { commits = #world.commits, xmin = xmin, xmax = xmax }
    end

    function world.begin()
        local transaction = { xid = next_xid, events = {}, epoch = world.epoch }
        next_xid = next_xid + 1
        running[#running + 1] = transaction
        return transaction
    end

    function world.complete(transaction)
        for i, other in ipairs(running) do
            if other == transaction then
                table.remove(running, i)
                break
            end
        end
        for name, owner in pairs(locks) do
            if owner == transaction then locks[name] = nil end
        end
        last_completed = math.max(last_completed, transaction.xid)
    end

    -- One of the running writers, and how many there are.
    function world.writer()
        local writers = {}
        for _, transaction in ipairs(running) do
            if transaction ~= world.forming then writers[#writers + 1] = transaction end
        end
        return #writers > 0 and writers[random(#writers)], #writers
    end

    function world.change()
        if world.writes_left == 0 then return end
        local transaction, count = world.writer()
        if not transaction or count < 3 and chance(2) then transaction = world.begin() end
        local kind, shape = random(2), random(6)
        local event = { entity = random(2), set = kind, clear = 0 }
        if world.is_removing and chance(3) then
            event = { removed = chance(3) and ENTITIES or { event.entity }, set = 0, clear = 3 }
            shape = 0
        end
        if shape == 1 or shape == 2 then event.set, event.clear = 0, kind end
        if shape == 3 then event.clear = 3 - kind end
        if shape == 4 then event.set = 3 end
        local is_free = true
        each_kind(event, function(name)
            if locks[name] and locks[name] ~= transaction then is_free = false end
        end)
        if not is_free then return end
        each_kind(event, function(name) locks[name] = transaction end)
        world.last_version = world.last_version + 1
        world.writes_left = world.writes_left - 1
        event.version = world.last_version
        transaction.events[#transaction.events + 1] = event
    end

    -- Ends a writer: rarely it rolls back. It applies at once, late, or not at all.
    function world.finish()
        local transaction = world.writer()
        if not transaction then return end
        world.complete(transaction)
        if #transaction.events == 0 or chance(8) then return end
        world.commits[#world.commits + 1] = transaction.events
        for _, event in ipairs(transaction.events) do
            event.commit = #world.commits
            world.outbox[#world.outbox + 1] = event
            each_kind(event, function(name, value)
                local past = world.history[name]
                past[#past + 1] = { version = event.version, value = value, commit = event.commit, removal = event.removed and event }
            end)
        end
        if not (is_async and chance(2)) then world.flush() end
        if world.flushed < #world.commits and not off['apply what is flushed'] then return end
        local way, changes = random(3), divide(transaction.events)
        if way == 1 then world.apply(changes, world.stamp(transaction.epoch)) end
        if way == 2 then world.send_later(changes, world.stamp(transaction.epoch)) end
    end

    function world.flush() world.flushed = #world.commits end

    function world.raise()
        world.epoch = world.epoch + 1
        world.flush()
    end

    local function keep_events(is_kept)
        local kept = {}
        for _, event in ipairs(world.outbox) do
            if is_kept(event) then kept[#kept + 1] = event end
        end
        world.outbox = kept
    end

    -- Any of the rows that may go: more than the three tables in turn would lose.
    function world.truncate()
        keep_events(function(event) return event.version > world.floor or chance(2) end)
    end

    -- What was not flushed never happened, and its numbers are drawn again. Sessions are gone, but for fills they have
    -- sent.
    function world.crash()
        if not is_async then return end
        count('crashes')
        running, locks, world.forming = {}, {}, nil
        world.drop_readers()
        while #world.commits > world.flushed do world.commits[#world.commits] = nil end
        local newest = math.max(BASE, world.newest_seen())
        for _, past in pairs(world.history) do
            while past[#past].version > 0 and past[#past].commit > world.flushed do past[#past] = nil end
            newest = math.max(newest, past[#past].version)
        end
        keep_events(function(event) return event.commit <= world.flushed end)
        world.last_version = newest
    end
end
