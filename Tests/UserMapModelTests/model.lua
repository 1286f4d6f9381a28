-- A model of everything that touches one user's map of two entities and two kinds: PostgreSQL with its transactions, snapshots,
-- versions, outbox and crashes; the agent with its batches; readers; and Redis, which runs the scripts themselves. A schedule
-- is a random interleaving of their steps. The caller has set `sources` (script texts by name) and `off` (rules switched off).
--
-- What is checked: a known answer of the map is, kind by kind, never older than what the agent has applied and never something
-- that no committed transaction made; when everything has come to rest, it is the truth; and one more miss makes it known.

local floor, format = math.floor, string.format

-- Versions of a high generation: they must be exact in a Lua number.
local BASE = 500 * 2 ^ 44
local KINDS = { 1, 2 }
local ENTITIES = { 1, 2 }

---- Redis -----------------------------------------------------------------------------------------------------------------------

local map  -- fields by name, or nil
local clock_ms

-- Of masks of two kinds.
local AND = {}
for a = 0, 3 do
    for b = 0, 3 do AND[a * 4 + b] = math.min(a % 2, b % 2) + 2 * math.min(floor(a / 2), floor(b / 2)) end
end

bit = { band = function(a, b) return AND[a * 4 + b] end }

local commands = {
    HGET = function(field) return map and map[field] or false end,
    HMGET = function(...)
        local values = {}
        for i = 1, select('#', ...) do values[i] = map and map[select(i, ...)] or false end
        return values
    end,
    HGETALL = function()
        local values = {}
        for field, value in pairs(map or {}) do
            values[#values + 1] = field
            values[#values + 1] = value
        end
        return values
    end,
    HSET = function(...)
        map = map or {}
        for i = 1, select('#', ...), 2 do
            local field, value = select(i, ...)
            assert(type(field) == 'string' and type(value) == 'string', 'HSET of what is not a string')
            map[field] = value
        end
    end,
    HDEL = function(...)
        for i = 1, select('#', ...) do map[select(i, ...)] = nil end
    end,
    HLEN = function()
        local length = 0
        for _ in pairs(map or {}) do length = length + 1 end
        return length
    end,
    DEL = function() map = nil end,
    EXPIRE = function() end,
}

redis = {
    call = function(name, key, ...)
        if name == 'TIME' then return { format('%.0f', floor(clock_ms / 1000)), format('%.0f', clock_ms % 1000 * 1000) } end
        assert(key == KEYS[1], 'a key that was not declared')
        return commands[name](...)
    end,
}

KEYS = { 'map' }

local scripts = {}
for name, text in pairs(sources) do scripts[name] = assert(loadstring(text, name)) end

local function run(name, arguments)
    ARGV = arguments
    return scripts[name]()
end

---- One schedule ----------------------------------------------------------------------------------------------------------------

counts = { answers = 0, unknowns = 0, fills = 0, refusals = 0, merges = 0, complete = 0, partial = 0, crashes = 0 }

local function decimal(number) return format('%.0f', number) end

local function schedule(seed)
    local state = (seed * 48271 + 7) % 2147483647
    -- A number from 1 to n (Lehmer's generator: the same schedule on every machine).
    local function random(n)
        state = state * 16807 % 2147483647
        return state % n + 1
    end
    local function chance(n) return random(n) == 1 end
    for _ = 1, 5 do random(2) end

    map, clock_ms = nil, 1e12
    local image, run_id, nonces = nil, 1, 0
    local limit = random(3) - 1
    local is_archive, is_async = chance(2), chance(3)

    -- PostgreSQL
    local next_xid, last_completed, last_version = 100, 99, BASE
    local running, locks = {}, {}           -- transactions in no order; (entity, kind) → transaction
    local commits, flushed = {}, 0          -- lists of events; how many of them a crash would keep
    local outbox = {}                       -- committed events that were not yet truncated
    local floor_now, epoch = 0, 1
    local history = {}                      -- (entity, kind) → {version, value} of every committed change, in order
    local offered = {}                      -- (entity, kind) → newest version the agent has applied

    local function slot(entity, kind) return entity * 4 + kind end
    for _, entity in ipairs(ENTITIES) do
        for _, kind in ipairs(KINDS) do
            history[slot(entity, kind)] = { { version = 0, value = 0 } }
            offered[slot(entity, kind)] = 0
        end
    end

    local function truth(entity)
        local flags = 0
        for _, kind in ipairs(KINDS) do
            local past = history[slot(entity, kind)]
            flags = flags + past[#past].value * kind
        end
        return flags
    end

    local function each_kind(event, visit)
        for _, kind in ipairs(KINDS) do
            if bit.band(event.set, kind) > 0 then
                visit(slot(event.entity, kind), 1)
            elseif bit.band(event.clear, kind) > 0 then
                visit(slot(event.entity, kind), 0)
            end
        end
    end

    -- Whether the kinds of `flags` are values that were true at or after the versions `since`.
    local function check(entity, flags, since, what)
        for _, kind in ipairs(KINDS) do
            local value = bit.band(flags, kind) > 0 and 1 or 0
            local is_possible = false
            local past = history[slot(entity, kind)]
            for i = #past, 1, -1 do
                if past[i].value == value then is_possible = true end
                if is_possible or past[i].version <= since[slot(entity, kind)] then break end
            end
            if not is_possible then error(format('%s: entity %d has flags %d', what, entity, flags), 0) end
        end
    end

    local function stamp(of_epoch) return format('%x', run_id * 4096 + of_epoch) end

    -- PostgreSQL's own: a running transaction at or above xmax is not listed.
    local function snapshot()
        local xmax = last_completed + 1
        local xmin = xmax
        for _, transaction in ipairs(running) do xmin = math.min(xmin, transaction.xid) end
        return { commits = #commits, xmin = xmin, xmax = xmax }
    end

    local function begin()
        local transaction = { xid = next_xid, events = {}, epoch = epoch }
        next_xid = next_xid + 1
        running[#running + 1] = transaction
        return transaction
    end

    local function complete(transaction)
        for i, other in ipairs(running) do
            if other == transaction then table.remove(running, i) break end
        end
        for name, owner in pairs(locks) do
            if owner == transaction then locks[name] = nil end
        end
        last_completed = math.max(last_completed, transaction.xid)
    end

    ---- Applying

    local late = {}  -- applies on their way: of writers, and of leaders that lost their office

    local function apply(events, under)
        local arguments = { under }
        for _, event in ipairs(events) do
            arguments[#arguments + 1] = decimal(event.entity)
            arguments[#arguments + 1] = decimal(event.set)
            arguments[#arguments + 1] = decimal(event.clear)
            arguments[#arguments + 1] = decimal(event.version)
        end
        if #events > 0 then run('apply', arguments) end
    end

    local function apply_late()
        if #late == 0 then return false end
        local one = table.remove(late, random(#late))
        apply(one.events, one.stamp or stamp(epoch))
    end

    local function send_later(events, under)
        late[#late + 1] = { events = events, stamp = chance(2) and under or nil }
    end

    ---- Writers

    local writes_left = 3 + random(7)
    local agent  -- the transaction in which it forms a batch

    local function writer()
        local writers = {}
        for _, transaction in ipairs(running) do
            if transaction ~= agent then writers[#writers + 1] = transaction end
        end
        return #writers > 0 and writers[random(#writers)], #writers
    end

    local function change()
        if writes_left == 0 then return false end
        local transaction, count = writer()
        if not transaction or count < 3 and chance(2) then transaction = begin() end
        local kind, shape = random(2), random(6)
        local event = { entity = random(2), set = kind, clear = 0 }
        if shape <= 2 then event.set, event.clear = 0, kind end
        if shape == 3 then event.clear = 3 - kind end
        if shape == 4 then event.set = 3 end
        local is_free = true
        each_kind(event, function(name)
            if locks[name] and locks[name] ~= transaction then is_free = false end
        end)
        if not is_free then return false end
        each_kind(event, function(name) locks[name] = transaction end)
        last_version = last_version + 1
        writes_left = writes_left - 1
        event.version = last_version
        transaction.events[#transaction.events + 1] = event
    end

    local function finish()
        local transaction = writer()
        if not transaction then return false end
        complete(transaction)
        if #transaction.events == 0 or chance(8) then return end
        commits[#commits + 1] = transaction.events
        for _, event in ipairs(transaction.events) do
            event.commit = #commits
            outbox[#outbox + 1] = event
            each_kind(event, function(name, value)
                local past = history[name]
                past[#past + 1] = { version = event.version, value = value, commit = #commits }
            end)
        end
        if not (is_async and chance(2)) then flushed = #commits end
        if flushed < #commits and not off['apply what is flushed'] then return end
        local way = random(3)
        if way == 1 then apply(transaction.events, stamp(transaction.epoch)) end
        if way == 2 then send_later(transaction.events, stamp(transaction.epoch)) end
    end

    local function flush() flushed = #commits end

    ---- The agent

    local batches = {}
    local seen, bound, epoch_seen

    local function look()
        if agent then return false end
        seen = last_version
        epoch_seen = epoch
        agent = begin()
        bound = agent.xid
    end

    local function form()
        if not agent then return false end
        local taken = snapshot()
        local previous = batches[#batches] and batches[#batches].snapshot.commits or 0
        local batch = { seen = seen, bound = bound, snapshot = taken, events = {}, epoch = epoch }
        if off['epoch after the snapshot'] then batch.epoch = epoch_seen end
        for commit = previous + 1, taken.commits do
            for _, event in ipairs(commits[commit]) do batch.events[#batch.events + 1] = event end
        end
        table.sort(batch.events, function(a, b) return a.version < b.version end)
        batches[#batches + 1] = batch
        flushed = #commits
        complete(agent)
        agent = nil
    end

    -- The first batch that is not yet applied, confirmed or finished: each is done in order.
    local done = { applied = 0, confirmed = 0, finished = 0 }

    local function first(step) return batches[done[step] + 1] end

    local function mark_offered(batch)
        done.applied = done.applied + 1
        for _, event in ipairs(batch.events) do
            each_kind(event, function(name) offered[name] = math.max(offered[name], event.version) end)
        end
    end

    local function offer()
        local batch = first('applied')
        if not batch then return false end
        local under = batch.epoch
        if chance(2) and not off['epoch after the snapshot'] then under = epoch end
        apply(batch.events, stamp(under))
        if chance(3) then send_later(batch.events, stamp(under)) end
        if not chance(4) then mark_offered(batch) end
    end

    local function raise()
        epoch = epoch + 1
        flushed = #commits
    end

    local function give_up()
        local batch = first('applied')
        if not batch then return false end
        raise()
        mark_offered(batch)
    end

    local archive = {}  -- (entity, kind) → {version, value}, as ClickHouse has it

    local function confirm()
        local batch = first('confirmed')
        if not batch then return false end
        done.confirmed = done.confirmed + 1
        for _, event in ipairs(batch.events) do
            each_kind(event, function(name, value)
                if not archive[name] or archive[name].version < event.version then
                    archive[name] = { version = event.version, value = value }
                end
            end)
        end
    end

    local function finish_batch()
        if done.finished == math.min(done.applied, done.confirmed) then return false end
        local batch = first('finished')
        done.finished = done.finished + 1
        for i = done.finished, 1, -1 do
            local is_past = batches[i].bound < batch.snapshot.xmin
            if off['bound of the floor'] then is_past = batches[i].snapshot.xmax <= batch.snapshot.xmin end
            if is_past then
                floor_now = math.max(floor_now, batches[i].seen)
                break
            end
        end
    end

    local function truncate()
        local kept = {}
        for _, event in ipairs(outbox) do
            if event.version > floor_now or chance(2) then kept[#kept + 1] = event end
        end
        if #kept == #outbox then return false end
        outbox = kept
    end

    ---- Readers

    local reads_left, is_busy = 4 + random(5), true
    local readers = {}

    local function known(text)
        local question, flags = string.match(text or '', '^(%??)(%d+)')
        return question == '' and tonumber(flags) or nil
    end

    -- The answers for the entities, nil where the truth has to be asked.
    local function answers()
        local owner, map_state = string.match(map and map._ or '', '^(%x+):%x+:%d+:(%a):')
        if not owner or owner ~= stamp(epoch) and not off.stamp then return {} end
        local found = {}
        for _, entity in ipairs(ENTITIES) do
            local text = map[decimal(entity)]
            found[entity] = known(text)
            if not text and map_state == 'c' then found[entity] = 0 end
        end
        return found
    end

    local function ask(reader)
        local found = answers()
        reader.unknown = {}
        for _, entity in ipairs(ENTITIES) do
            if found[entity] then
                counts.answers = counts.answers + 1
                check(entity, found[entity], offered, 'stale or phantom answer')
            else
                counts.unknowns = counts.unknowns + 1
                reader.unknown[#reader.unknown + 1] = entity
            end
        end
        reader.stamp = stamp(epoch)
        if #reader.unknown == 2 and chance(3) then table.remove(reader.unknown, random(2)) end
        return #reader.unknown > 0
    end

    local function miss(reader)
        nonces = nonces + 1
        local reply = run('miss', { reader.stamp, format('%x', nonces), '600', '3600', '1000', decimal(limit) })
        reader.nonce, reader.state = reply[1], reply[2]
        return reply[3] == 1 or chance(2)
    end

    local function look_at_archive(reader)
        if not is_archive or reader.archive then return true end
        reader.archive = {}
        for name, found in pairs(archive) do reader.archive[name] = found.value end
        return true
    end

    -- One atomic step: the outbox cannot be truncated between the snapshot and the reading of floor and rows.
    local function take_snapshot(reader)
        reader.floor = floor_now
        reader.marks, reader.flags, reader.since = {}, {}, {}
        reader.is_flushed = true
        for _, entity in ipairs(ENTITIES) do
            reader.flags[entity] = truth(entity)
            for _, kind in ipairs(KINDS) do
                local past = history[slot(entity, kind)]
                reader.since[slot(entity, kind)] = past[#past].version
            end
        end
        for _, event in ipairs(outbox) do
            if event.commit > flushed then reader.is_flushed = false end
            local is_news = event.version > floor_now or off['outbox above the floor']
            each_kind(event, function(name, value)
                if not is_news then return end
                if not reader.marks[name] or reader.marks[name].version < event.version then
                    reader.marks[name] = { version = event.version, value = value }
                end
            end)
        end
        return true
    end

    local function fields_of(reader)
        local fields = {}
        for _, entity in ipairs(ENTITIES) do
            local flags, marks, newest = 0, '', 0
            for _, kind in ipairs(KINDS) do
                local mark = reader.marks[slot(entity, kind)]
                local value = floor(reader.flags[entity] / kind) % 2
                if reader.archive then value = mark and mark.value or reader.archive[slot(entity, kind)] or 0 end
                flags = flags + value * kind
                if mark and mark.version > reader.floor then
                    marks = format('%s:%d:%.0f', marks, kind, mark.version)
                    newest = math.max(newest, mark.version)
                end
            end
            check(entity, flags, reader.since, 'truth older than its snapshot')
            if off['marks per kind'] and newest > 0 then marks = format(':3:%.0f', newest) end
            if off['outbox versions'] then marks = '' end
            fields[entity] = { flags = flags, text = decimal(flags) .. marks, has_marks = marks ~= '' }
        end
        return fields
    end

    local function fill(reader)
        if not reader.is_flushed and not off['fill what is flushed'] then return false end
        if off['floor of the snapshot'] then reader.floor = floor_now end
        local fields, size = fields_of(reader), 0
        for _, field in ipairs(fields) do
            if field.flags > 0 then size = size + 1 end
        end
        local map_state = reader.state
        if map_state == 'n' then map_state = size <= limit and 'c' or 'p' else map_state = 'p' end
        local arguments = { reader.stamp, reader.nonce, decimal(reader.floor), map_state }
        local function add(entity)
            arguments[#arguments + 1] = decimal(entity)
            arguments[#arguments + 1] = fields[entity].text
        end
        if map_state == 'c' then
            for entity, field in ipairs(fields) do
                if field.flags > 0 or field.has_marks and not off['un-reactions'] then add(entity) end
            end
        else
            for _, entity in ipairs(reader.unknown) do add(entity) end
        end
        local merges = map and map['1'] or map and map['2']
        if run('fill', arguments) == 0 then
            counts.refusals = counts.refusals + 1
            return false
        end
        counts.fills = counts.fills + 1
        if merges then counts.merges = counts.merges + 1 end
        local outcome = map_state == 'c' and 'complete' or 'partial'
        counts[outcome] = counts[outcome] + 1
        reader.is_filled = true
        return false
    end

    local steps = { ask, miss, take_snapshot, look_at_archive, fill }
    if off['snapshot after the nonce'] then steps = { ask, take_snapshot, miss, look_at_archive, fill } end
    if off['outbox before the archive'] then steps = { ask, miss, look_at_archive, take_snapshot, fill } end

    local function read_step(reader)
        reader.step = reader.step + 1
        return steps[reader.step](reader)
    end

    local function read()
        local position = random(3)
        if position == 3 and is_busy and chance(3) then position = 1 end  -- the third is slow
        if not readers[position] then
            if reads_left == 0 then return false end
            reads_left = reads_left - 1
            readers[position] = { step = 0 }
        end
        if not read_step(readers[position]) then readers[position] = nil end
    end

    local function read_undisturbed()
        local reader = { step = 0 }
        while read_step(reader) do end
        return reader
    end

    ---- Trouble

    local function evict() map = nil end

    local function copy(from)
        if not from then return nil end
        local to = {}
        for field, value in pairs(from) do to[field] = value end
        return to
    end

    local function save() image = copy(map) end

    local function restart()
        run_id = run_id + 1
        map = chance(3) and copy(image) or nil
        image = copy(map)
        if chance(2) then map = copy(image) end
    end

    local function wait() clock_ms = clock_ms + (chance(20) and 3600000 or random(1500)) end

    -- What was not flushed never happened, and its numbers are drawn again. Backends are gone, but for the fills
    -- that they have sent.
    local function crash()
        if not is_async then return false end
        counts.crashes = counts.crashes + 1
        running, locks, agent = {}, {}, nil
        for position, reader in pairs(readers) do
            if reader.step < #steps - 1 then readers[position] = nil end
        end
        while #commits > flushed do commits[#commits] = nil end
        local newest = BASE
        for _, batch in ipairs(batches) do newest = math.max(newest, batch.seen) end
        for _, past in pairs(history) do
            while past[#past].version > 0 and past[#past].commit > flushed do past[#past] = nil end
            newest = math.max(newest, past[#past].version)
        end
        local kept = {}
        for _, event in ipairs(outbox) do
            if event.commit <= flushed then kept[#kept + 1] = event end
        end
        outbox = kept
        last_version = newest
    end

    ---- The interleaving

    local function progress() return offer() ~= false or confirm() ~= false or finish_batch() end
    local function mirror()
        look()
        form()
        while progress() ~= false do end
    end

    local common = { change, change, finish, read, read, read, read_undisturbed, apply_late, truncate, flush }
    local agents = { { mirror, mirror, progress }, { look, form, offer, confirm, finish_batch, mirror } }
    for _, action in ipairs(agents[random(2)]) do common[#common + 1] = action end
    local troubles = { { evict }, { save, restart }, { raise, give_up }, { crash }, { wait }, { evict, restart, raise, wait } }
    local rare = troubles[random(#troubles)]
    local calm = 5 + random(30)
    for _ = 1, 45 + random(30) do
        local actions = chance(calm) and rare or common
        actions[random(#actions)]()
    end

    -- Coming to rest: nothing new begins, and what is on its way arrives in any order; in half of the schedules the old applies
    -- arrive when everything else is over.
    writes_left, is_busy = 0, false
    while writer() do finish() end
    flush()
    for _ = 1, 3 do
        look()
        form()
    end
    local closing = { progress, progress, read, read }
    if chance(2) then closing[5] = apply_late end
    while first('finished') or next(readers) do closing[random(#closing)]() end
    truncate()
    reads_left = 2
    while #late > 0 or next(readers) or reads_left > 0 do
        if #late > 0 and chance(3) then apply_late() else read() end
    end

    local function check_rest(what)
        for entity, flags in pairs(answers()) do
            if flags ~= truth(entity) then error(format('%s: entity %d has flags %d', what, entity, flags), 0) end
        end
    end
    check_rest('lasting error')

    clock_ms = clock_ms + 1500
    local reader = read_undisturbed()
    check_rest('lasting error after one more miss')
    local found = answers()
    for _, entity in ipairs(reader.unknown) do
        if not found[entity] then error(format('entity %d is unknown after a miss', entity), 0) end
    end
end

-- Runs `count` schedules; returns the seed and the message of the first that fails, or nothing.
function search(first_seed, count)
    for seed = first_seed, first_seed + count - 1 do
        local is_good, message = pcall(schedule, seed)
        if not is_good then return seed, message end
    end
end
