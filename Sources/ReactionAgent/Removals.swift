internal import Pipeline
internal import PostgresSource
internal import ReactionModel

/// Tells Redis of the users and entities that are gone by a batch that ClickHouse has confirmed.
struct Removals: Sendable {
    /// What is in memory at a time, of a batch's events and of an entity's users.
    static let pageSize = 10_000

    let source: PostgresSource
    let sink: any Sink
    let cache: any Cache

    /// Returns the number of users and entities.
    func offer(_ batch: Batch) async throws -> Int {
        // Epochs read after the confirmation: a map of an older one is absent, and one of a newer one begins with what ClickHouse says now.
        let catalog = try await source.catalog()
        var after = Version.zero
        var count = 0
        while true {
            try Task.checkCancellation()
            let events = try await source.removals(of: batch, after: after, limit: Self.pageSize)
            for (typeID, events) in Dictionary(grouping: events, by: \.typeID) {
                guard let type = catalog[typeID] else { continue }
                try await cache.drop(events.filter { $0.scope == .user }.map(\.userID), of: type)
                for event in events where event.scope == .entity { try await clear(event, of: type) }
            }
            count += events.count
            guard let last = events.last, events.count == Self.pageSize else { return count }
            after = last.version
        }
    }

    /// The event takes every kind from whoever had one by what ClickHouse knew: what came before it was in ClickHouse, and what comes
    /// after it has a higher version.
    private func clear(_ event: Event, of type: EntityType) async throws {
        let kinds = type.kinds.reduce(0) { $0 | $1.flag }
        var last: Int64?
        while true {
            try Task.checkCancellation()
            let users = try await sink.users(removedBy: event, of: type, above: last, limit: Self.pageSize)
            let clears = users.map { user in
                var clear = event
                clear.scope = .reaction
                clear.userID = user
                clear.clearMask = kinds
                return clear
            }
            try await cache.apply(clears, catalog: [type.typeID: type])
            guard users.count == Self.pageSize else { return }
            last = users.last
        }
    }
}
