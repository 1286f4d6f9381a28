internal import ClickHouseStore
internal import Pipeline
internal import PostgresSource
internal import ReactionModel
internal import RedisStore

/// Looks at entities in Redis and compares them with ClickHouse. docs/internals.md, "Reconciliation", says why they have to agree.
struct EntityVerifier {
    struct Verdict {
        var entity: EntityAddress
        var look: EntityLook
        var state: EntityCondition
        /// Its counts were compared with ClickHouse.
        var isVerified = false

        var fault: CacheFault? {
            if case .faulty(let fault, _) = state { fault } else { nil }
        }

        var tier: EntityTier? {
            if case .kept(let tier) = state { tier } else { nil }
        }

        /// ClickHouse disagrees, and is not to be believed for now.
        mutating func leave() {
            guard fault != nil, isVerified, let marker = look.marker else { return }
            state = .kept(marker.tier)
            isVerified = false
        }
    }

    /// Users whose records are in memory at a time, about a megabyte of Redis's.
    private static let usersPerGroup = 50_000

    let source: ReconcileSource
    let scan: CacheScan
    let checks: EntityChecks
    let store: EntityStore
    let confirmations: Confirmations
    /// Compare the deltas with the events, and every list with who has reacted; without it samples only.
    let isDeep: Bool

    /// In this order: first what is counted, then the catalog, then Redis. So every batch up to the first is in the counts that are found
    /// under the catalog's epochs, and they are those of ClickHouse as of that batch, or as of the chunk in their marker, whichever is
    /// later: what ClickHouse says of that moment never changes, unless it has lost it by a restart.
    ///
    /// - Parameter isLast: what it is going to be repaired by.
    func judge(
        _ entities: [EntityAddress], isLast: Bool
    ) async throws -> (verdicts: [Verdict], place: ReconcileSource.Place) {
        let server = isLast ? try await confirmations.verifiedStart() : nil
        let common = try await source.counted()
        let place = try await source.place()
        await scan.use(place)
        let looks = try await scan.look(at: entities)
        var verdicts: [Verdict] = []
        for type in place.types {
            var some = entities.filter { $0.typeID == type.typeID }.compactMap { entity in
                looks[entity].map { Verdict(entity: entity, look: $0, state: EntityCondition($0, of: type)) }
            }
            if type.isCounted {
                try await compareCounts(&some, type, common)
                try await compareLists(&some, type, common)
                try await leaveUnfinished(&some, common)
            }
            verdicts += some
        }
        if isLast, try await !confirmations.isStill(server) {
            for index in verdicts.indices { verdicts[index].leave() }
        }
        return (verdicts, place)
    }

    private func compareCounts(
        _ verdicts: inout [Verdict], _ type: EntityType, _ common: BatchNumber
    ) async throws {
        let kept = verdicts.indices.filter { verdicts[$0].tier != nil }
        guard !kept.isEmpty else { return }
        let subjects = kept.map { index in
            let counted = verdicts[index].look.marker?.counted
            return EntityCheck.Subject(
                entityID: verdicts[index].entity.id, last: (counted?.batch ?? common, counted?.part ?? 0))
        }
        let deltas = try await checks.deltas(of: subjects, type, common: common)
        let events = isDeep ? try await checks.events(of: subjects, type, common: common) : [:]
        for index in kept {
            let verdict = verdicts[index]
            var truth = deltas[verdict.entity.id] ?? EntityTruth()
            if type.mode == .exclusive { truth.users = truth.counts.values.reduce(0, &+) }
            verdicts[index].isVerified = true
            if isDeep {
                let state = events[verdict.entity.id] ?? EntityTruth()
                if let difference = truth.difference(fromEvents: state, type) {
                    verdicts[index].state = .faulty(.wrongDeltas, difference)
                    continue
                }
                truth.users = state.users ?? 0
            }
            if let difference = truth.difference(from: verdict.look, type) {
                verdicts[index].state = .faulty(.drift, difference)
            }
        }
    }

    // MARK: Lists

    /// A list that is too long to be read is not compared.
    private func compareLists(
        _ verdicts: inout [Verdict], _ type: EntityType, _ common: BatchNumber
    ) async throws {
        var group: [Int] = []
        var users = 0
        for index in verdicts.indices {
            guard let tier = verdicts[index].tier, isDeep || tier == .viral else { continue }
            group.append(index)
            users += Self.list(of: verdicts[index].look).count ?? 0
            guard users >= Self.usersPerGroup else { continue }
            try await compareLists(group, of: &verdicts, type, common)
            (group, users) = ([], 0)
        }
        try await compareLists(group, of: &verdicts, type, common)
    }

    /// Of those that are still kept.
    private func compareLists(
        _ group: [Int], of verdicts: inout [Verdict], _ type: EntityType, _ common: BatchNumber
    ) async throws {
        let looks = try await scan.look(at: group.map { verdicts[$0].entity }, isWhole: true)
        var lists: [(index: Int, look: EntityLook, list: ReactionList)] = []
        for index in group {
            guard var look = looks[verdicts[index].entity], case .kept = EntityCondition(look, of: type) else {
                continue
            }
            let found = Self.list(of: look)
            guard let list = found.list, list.reactors.count == found.count else { continue }
            look.forgetReactors()
            lists.append((index, look, list))
        }
        let query = EntityQuery(type: type, asOf: common)
        let settled = lists.filter {
            $0.look.marker?.tier == .regular && ($0.look.marker?.counted.batch ?? common) <= common
        }
        let everybody = try await store.reactors(of: settled.map { verdicts[$0.index].entity.id }, query)
        for (index, look, list) in lists {
            guard let marker = look.marker else { continue }
            let id = verdicts[index].entity.id
            let isSettled = marker.counted.batch <= common
            let own = isSettled ? query : EntityQuery(type: type, asOf: marker.counted.batch, part: marker.counted.part)
            let truth: ReactorTruth
            if marker.tier == .viral {
                let newest = try await store.newest(Rebuilder.eventsOfSample, of: id, own)
                truth = ReactorTruth(reactors: newest.reactors, floor: newest.floor)
            } else {
                truth = ReactorTruth(
                    reactors: isSettled ? everybody[id] ?? [] : try await store.reactors(of: [id], own)[id] ?? [])
            }
            guard let (fault, detail) = truth.fault(of: list) else { continue }
            verdicts[index].look = look
            verdicts[index].state = .faulty(fault, detail)
        }
    }

    private static func list(of look: EntityLook) -> EntityLook.List {
        look.marker?.tier == .regular ? look.reactions : look.sample
    }

    // MARK: Unfinished batches

    /// Where an entity's marker stands in a batch whose rows ClickHouse has by other places than those that are counted, it may be what
    /// ClickHouse says of no place: it is right for now. What is counted of users who are gone comes in pages of one place, of which it may
    /// have got one and not the next one; a chunk with a parked event is in ClickHouse in pieces.
    private func leaveUnfinished(_ verdicts: inout [Verdict], _ common: BatchNumber) async throws {
        let suspects = verdicts.indices.filter { index in
            verdicts[index].fault != nil && (verdicts[index].look.marker?.counted.batch ?? common) > common
        }
        guard !suspects.isEmpty else { return }
        let batches = try await source.inOtherPieces(
            Set(suspects.compactMap { verdicts[$0].look.marker?.counted.batch }))
        for index in suspects where verdicts[index].look.marker.map({ batches.contains($0.counted.batch) }) ?? false {
            verdicts[index].leave()
        }
    }
}

extension EntityLook {
    fileprivate mutating func forgetReactors() {
        reactions.list?.reactors = []
        sample.list?.reactors = []
    }
}
