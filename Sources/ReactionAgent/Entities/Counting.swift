internal import ClickHouseStore
internal import Pipeline
internal import PostgresSource
internal import ReactionModel
internal import RedisStore

/// Counts confirmed batches in the entities that Redis holds, chunk by chunk.
struct Counting: Sendable {
    /// Rows of a page of what users who are gone had. The places of pages follow from it, so it stays what it is.
    static let clearsPerPage = 20_000

    /// Beside the mirror's session, which may be waiting for the bell.
    let catalog: PostgresSource
    let deliverer: Deliverer
    let sink: any Sink
    let store: EntityStore
    let counter: EntityCounter

    func count(_ batch: Batch) async throws {
        // Epochs read after the confirmation: an entity of a newer one is made of what ClickHouse says now.
        let catalog = await counter.use(try await catalog.catalog())
        var after = Version.zero
        var position: Int64 = 0
        while position < batch.events {
            try Task.checkCancellation()
            let sent = try await deliverer.sent(of: batch, after: after, count: position)
            let chunk = CountedChunk(batch: batch.number, part: Int32(truncatingIfNeeded: position))
            try await count(sent.events, at: chunk, catalog)
            after = sent.last
            position += sent.count
        }
    }

    private func count(_ events: [Event], at chunk: CountedChunk, _ catalog: [Int16: EntityType]) async throws {
        guard let first = events.first else { return }
        switch first.scope {
        case .reaction:
            let changes = events.folded(catalog)
            guard !changes.isEmpty else { return }
            try await counter.count(changes, at: chunk) { keys in
                try await verified {
                    try await sink.flags(of: keys, before: chunk.batch, first.version, catalog: catalog)
                }
            }
        case .user:
            try await countClears(of: events, at: chunk, catalog)
        case .entity:
            guard catalog[first.typeID]?.isCounted ?? false else { return }
            try await counter.drop(
                events.map { EntityID(typeID: $0.typeID, entityID: $0.entityID) }, at: chunk)
        case .type:
            // The transaction has raised the epoch, and has begun a backfill: nothing of the type is counted before that is sealed.
            break
        }
    }

    /// What a ClickHouse says that has all that was confirmed: it is the one that was verified, before it was asked and after.
    private func verified<Answer: Sendable>(
        _ ask: @Sendable () async throws -> Answer
    ) async throws -> Answer {
        let server = try await deliverer.verifiedStart()
        let answer = try await ask()
        try await store.expect(startedAt: server)
        return answer
    }

    /// The rows that ClickHouse made of users who are gone, whole users at a time: a page that begins with another user than the last one
    /// ended with has the next place among the events of the chunk, which are no fewer than its users. No two pieces of one user touch
    /// the same entity, so these share a place.
    private func countClears(
        of events: [Event], at chunk: CountedChunk, _ catalog: [Int16: EntityType]
    ) async throws {
        guard let type = events.first.flatMap({ catalog[$0.typeID] }), type.isCounted else { return }
        let query = EntityQuery(type: type, asOf: chunk.batch)
        let users = Array(Set(events.map(\.userID)))
        let writtenAt = events.map(\.writtenAt).max() ?? 0
        var place = chunk
        var last: (userID: Int64, entityID: Int64)?
        while true {
            try Task.checkCancellation()
            let above = last
            let rows = try await verified {
                try await store.clears(of: users, in: chunk.part, above: above, limit: Self.clearsPerPage, query)
            }
            let isLast = rows.count < Self.clearsPerPage
            let page = Self.page(of: rows, continuing: last?.userID, isLast: isLast)
            guard let first = page.first, let end = page.last else { return }
            if let last, last.userID != first.reactor.position.userID { place.part += 1 }
            try await counter.count(Self.changes(page, of: type, writtenAt), at: place) { _ in [:] }
            last = (end.reactor.position.userID, end.entityID)
            if isLast, page.count == rows.count { return }
        }
    }

    /// The rows of whole users; or of one alone, if he began in the page before or fills this one.
    static func page(
        of rows: [EntityQuery.Row], continuing user: Int64?, isLast: Bool
    ) -> ArraySlice<EntityQuery.Row> {
        guard let first = rows.first?.reactor.position.userID, let last = rows.last?.reactor.position.userID else {
            return []
        }
        if first == user || first == last { return rows.prefix { $0.reactor.position.userID == first } }
        return isLast ? rows[...] : rows.prefix { $0.reactor.position.userID != last }
    }

    private static func changes(
        _ rows: ArraySlice<EntityQuery.Row>, of type: EntityType, _ writtenAt: Int64
    ) -> [EntityChange] {
        Dictionary(grouping: rows, by: \.entityID).map { entityID, rows in
            let users = rows.map(\.reactor).sorted { $0.position.userID < $1.position.userID }.map {
                UserChange(position: $0.position, touched: $0.flags, before: $0.flags, after: 0, isWhole: true)
            }
            return EntityChange(
                typeID: type.typeID, entityID: entityID, users: users, allFlags: type.allFlags, writtenAt: writtenAt)
        }
    }
}
