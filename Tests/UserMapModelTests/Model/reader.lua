-- Readers: HMGET, and on a miss the steps of docs/internals.md, each of which others may come between.

local floor, format = math.floor, string.format

function add_readers(world)
    local random, chance = world.random, world.chance
    local is_narrow = chance(3)  -- every map is partial, and a read asks for one entity
    local limit = is_narrow and 0 or random(3) - 1
    local readers, nonces = {}, 0
    world.reads_left, world.is_busy = 4 + random(5), true

    -- The map's answers by entity, nil where the truth has to be asked.
    function world.answers()
        local map = redis.map
        local owner, state = string.match(map and map._ or '', '^(%x+):%x+:%d+:(%a):')
        if not owner or owner ~= world.stamp(world.epoch) and not off.stamp then return {} end
        local found = {}
        for _, entity in ipairs(ENTITIES) do
            local text = map[decimal(entity)]
            local unknown, flags = string.match(text or '', '^(%??)(%d+)')
            if unknown == '' then found[entity] = tonumber(flags) end
            if not text and state == 'c' then found[entity] = 0 end
        end
        return found
    end

    local function ask(reader)
        local found = world.answers()
        reader.unknown = {}
        for _, entity in ipairs(ENTITIES) do
            if found[entity] then
                count('answers')
                world.check(entity, found[entity], world.offered, 'stale or phantom answer')
            else
                count('unknowns')
                reader.unknown[#reader.unknown + 1] = entity
            end
        end
        reader.stamp = world.stamp(world.epoch)
        if #reader.unknown == 2 and (is_narrow or chance(3)) then table.remove(reader.unknown, random(2)) end
        return #reader.unknown > 0
    end

    -- Who has not been granted the lease waits, and asks the truth all the same when nobody fills.
    local function miss(reader)
        nonces = nonces + 1
        local arguments = { reader.stamp, format('%x', nonces), '600', '3600', '1000', decimal(limit) }
        local reply = redis.run('miss', arguments)
        reader.nonce, reader.state = reply[1], reply[2]
        return reply[3] == 1 or chance(2)
    end

    -- Snapshot, floor, outbox and table: one step, since the outbox is locked against truncation meanwhile.
    local function take_snapshot(reader)
        reader.floor = world.floor
        reader.marks, reader.flags, reader.since = {}, {}, {}
        reader.is_flushed = true
        for _, entity in ipairs(ENTITIES) do reader.flags[entity] = world.truth(entity) end
        for name, past in pairs(world.history) do
            -- That somebody is gone is seen when ClickHouse has it.
            local last = #past
            while past[last].removal and not past[last].removal.is_confirmed do last = last - 1 end
            reader.since[name] = past[last].version
        end
        for _, event in ipairs(world.outbox) do
            if event.commit > world.flushed then reader.is_flushed = false end
            if not event.removed and (event.version > world.floor or off['outbox above the floor']) then
                each_kind(event, function(name, value)
                    local mark = reader.marks[name]
                    if not mark or mark.version < event.version then
                        reader.marks[name] = { version = event.version, value = value }
                    end
                end)
            end
        end
        return true
    end

    local function look_at_archive(reader)
        if not world.is_archived then return true end
        reader.archive = {}
        for name, found in pairs(world.archive) do reader.archive[name] = found end
        return true
    end

    -- The flags of an entity and the field that a fill would store.
    local function field_of(reader, entity)
        local flags, marks, newest = 0, '', 0
        for _, kind in ipairs(KINDS) do
            local name = slot(entity, kind)
            local mark = reader.marks[name]
            local value = floor(reader.flags[entity] / kind) % 2
            if reader.archive then
                -- Per kind the newer version decides: the outbox is not asked who is gone.
                local archived = reader.archive[name]
                if archived and archived.version > reader.floor and archived.version > (mark and mark.version or 0) then
                    mark = archived
                end
                value = mark and mark.value or archived and archived.value or 0
            end
            flags = flags + value * kind
            if mark and mark.version > reader.floor then
                marks = format('%s:%d:%.0f', marks, kind, mark.version)
                newest = math.max(newest, mark.version)
            end
        end
        world.check(entity, flags, reader.since, 'truth older than its snapshot')
        if off['marks per kind'] and newest > 0 then marks = format(':3:%.0f', newest) end
        if off['outbox versions'] then marks = '' end
        return { flags = flags, text = decimal(flags) .. marks, has_marks = marks ~= '' }
    end

    local function fill(reader)
        if not reader.is_flushed and not off['fill what is flushed'] then return false end
        if off['floor of the snapshot'] then reader.floor = world.floor end
        local fields, size = {}, 0
        for _, entity in ipairs(ENTITIES) do
            fields[entity] = field_of(reader, entity)
            if fields[entity].flags > 0 then size = size + 1 end
        end
        local is_complete = reader.state == 'n' and size <= limit
        local arguments = { reader.stamp, reader.nonce, decimal(reader.floor), is_complete and 'c' or 'p' }
        local function add(entity)
            arguments[#arguments + 1] = decimal(entity)
            arguments[#arguments + 1] = fields[entity].text
        end
        if is_complete then
            for entity, field in ipairs(fields) do
                if field.flags > 0 or field.has_marks and not off['un-reactions'] then add(entity) end
            end
        else
            for _, entity in ipairs(reader.unknown) do add(entity) end
        end
        local is_merged = redis.map and (redis.map['1'] or redis.map['2'])
        if redis.run('fill', arguments) == 0 then
            count('refusals')
            return false
        end
        count('fills')
        if is_merged then count('merges') end
        count(is_complete and 'complete' or 'partial')
        return false
    end

    local steps = { ask, miss, take_snapshot, look_at_archive, fill }
    if off['snapshot after the nonce'] then steps = { ask, take_snapshot, miss, look_at_archive, fill } end
    if off['outbox before the archive'] then steps = { ask, miss, look_at_archive, take_snapshot, fill } end

    -- Whether the reader goes on.
    local function step(reader)
        reader.step = reader.step + 1
        return steps[reader.step](reader)
    end

    -- One step of one of three readers, the third of them slow.
    function world.read()
        local position = random(3)
        if position == 3 and world.is_busy and not chance(3) then position = 1 end
        if not readers[position] then
            if world.reads_left == 0 then return end
            world.reads_left = world.reads_left - 1
            readers[position] = { step = 0 }
        end
        if not step(readers[position]) then readers[position] = nil end
    end

    function world.read_undisturbed()
        local reader = { step = 0 }
        while step(reader) do end
        return reader
    end

    function world.is_reading() return next(readers) ~= nil or world.reads_left > 0 end

    -- All but those whose next step is the fill: it is on its way.
    function world.drop_readers()
        for position, reader in pairs(readers) do
            if reader.step < #steps - 1 then readers[position] = nil end
        end
    end
end
