-- The agent: batches, applying, ClickHouse, the floor; and whatever it, writers or its predecessors send too late.

function add_agent(world)
    local random, chance = world.random, world.chance
    local batches, late = {}, {}
    -- How many of the batches: each step goes in order.
    local done = { applied = 0, confirmed = 0, removed = 0, finished = 0 }
    local seen

    world.forming = nil  -- the transaction that forms a batch
    world.archive = {}   -- slot → {version, value}: ClickHouse
    world.offered = {}   -- slot → newest version that Redis was offered by the agent
    for name in pairs(world.history) do world.offered[name] = 0 end

    function world.apply(events, stamp)
        if #events == 0 then return end
        local arguments = { stamp }
        for _, event in ipairs(events) do
            arguments[#arguments + 1] = decimal(event.entity)
            arguments[#arguments + 1] = decimal(event.set)
            arguments[#arguments + 1] = decimal(event.clear)
            arguments[#arguments + 1] = decimal(event.version)
        end
        redis.run('apply', arguments)
    end

    function world.send_later(events, stamp)
        late[#late + 1] = { events = events, stamp = chance(2) and stamp or nil }
    end

    function world.apply_late()
        if #late == 0 then return false end
        local one = table.remove(late, random(#late))
        world.apply(one.events, one.stamp or world.stamp(world.epoch))
        return true
    end

    -- Forming a batch takes two steps: the sequence and an xid; snapshot and commit.
    function world.look()
        if world.forming then return end
        seen = world.last_version
        world.forming = world.begin()
    end

    function world.form()
        if not world.forming then return end
        local batch = {
            seen = seen, xid = world.forming.xid, snapshot = world.snapshot(), events = {}, epoch = world.epoch,
        }
        local previous = batches[#batches] and batches[#batches].snapshot.commits or 0
        for commit = previous + 1, batch.snapshot.commits do
            for _, event in ipairs(world.commits[commit]) do batch.events[#batch.events + 1] = event end
        end
        table.sort(batch.events, function(a, b) return a.version < b.version end)
        batches[#batches + 1] = batch
        world.flush()
        world.complete(world.forming)
        world.forming = nil
    end

    function world.newest_seen() return batches[#batches] and batches[#batches].seen or 0 end

    local function mark_offered(events)
        for _, event in ipairs(events) do
            each_kind(event, function(name) world.offered[name] = math.max(world.offered[name], event.version) end)
        end
    end

    local function mark_applied(batch)
        done.applied = done.applied + 1
        mark_offered((divide(batch.events)))
    end

    local function mark_removed(batch)
        done.removed = done.removed + 1
        local _, removals = divide(batch.events)
        local told = {}
        for _, event in ipairs(removals) do
            -- Of an entity of which ClickHouse had nothing Redis is told by the events that had taken it away.
            if #event.removed > 1 or event.has_rows then told[#told + 1] = event end
        end
        mark_offered(told)
    end

    -- Offers a batch to Redis; sometimes dies before it has noted that, sometimes another copy is under way.
    function world.offer()
        local batch = batches[done.applied + 1]
        if not batch then return false end
        -- An older epoch than the map's takes the map along.
        local epoch = chance(2) and world.epoch or batch.epoch
        local changes = divide(batch.events)
        world.apply(changes, world.stamp(epoch))
        if chance(3) then world.send_later(changes, world.stamp(epoch)) end
        if not chance(4) then mark_applied(batch) end
        return true
    end

    -- The user's map goes, or the entity's kinds go from it, if ClickHouse had any of them. Sometimes it dies before it has noted that.
    function world.offer_removals()
        local batch = batches[done.removed + 1]
        if not batch or done.removed == done.confirmed and not off['removals after the confirmation'] then return false end
        local _, removals = divide(batch.events)
        for _, event in ipairs(removals) do
            count('removals')
            if #event.removed > 1 then
                redis.map = nil
            elseif event.has_rows or not event.is_confirmed then
                local epoch = chance(2) and world.epoch or batch.epoch
                world.apply({ { entity = event.removed[1], set = 0, clear = 3, version = event.version } }, world.stamp(epoch))
            end
        end
        if not chance(4) then mark_removed(batch) end
        return true
    end

    -- Could not apply for too long. The raised epoch stands for removals that were confirmed before.
    function world.give_up()
        local batch = batches[done.applied + 1]
        local is_removal_due = done.removed < done.confirmed or off['raise after the confirmation'] and batches[done.removed + 1]
        if batch or is_removal_due then world.raise() end
        if batch then mark_applied(batch) end
        if is_removal_due then mark_removed(batches[done.removed + 1]) end
    end

    function world.confirm()
        local batch = batches[done.confirmed + 1]
        if not batch then return false end
        done.confirmed = done.confirmed + 1
        for _, event in ipairs(batch.events) do
            event.is_confirmed = true
            each_kind(event, function(name, value)
                local archived = world.archive[name]
                if event.removed and archived and archived.value > 0 and archived.version < event.version then
                    event.has_rows = true
                end
                if not archived or archived.version < event.version then
                    world.archive[name] = { version = event.version, value = value }
                end
            end)
        end
        return true
    end

    function world.finish_batch()
        if done.finished == math.min(done.applied, done.confirmed, done.removed) then return false end
        done.finished = done.finished + 1
        local xmin = batches[done.finished].snapshot.xmin
        for i = done.finished, 1, -1 do
            local is_past = batches[i].xid < xmin
            if off['bound of the floor'] then is_past = batches[i].snapshot.xmax <= xmin end
            if is_past then
                world.floor = math.max(world.floor, batches[i].seen)
                break
            end
        end
        return true
    end

    function world.progress() return world.offer() or world.confirm() or world.offer_removals() or world.finish_batch() end

    -- All steps in a row; an empty batch now and then lifts the floor.
    function world.mirror()
        local newest = batches[#batches]
        if newest and newest.snapshot.commits == #world.commits and chance(2) then return end
        world.look()
        world.form()
        while world.progress() do end
    end

    function world.is_mirrored() return done.finished == #batches end
    function world.is_quiet() return #late == 0 end
end
