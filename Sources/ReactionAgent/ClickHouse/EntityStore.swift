public import ClickHouseStore
public import Pipeline
import PostgresSource
public import ReactionModel

/// A conversation with ClickHouse about entities. libcurl blocks, so the actor has a thread of its own.
public actor EntityStore {
    private let executor = QueueExecutor(label: "reactiond.clickhouse.entities")
    private let settings: ClickHouseSettings
    private var session: ClickHouseSession?

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    public init(_ settings: ClickHouseSettings) {
        self.settings = settings
    }

    /// When the server started that answers now, of a cluster the last one, in unix seconds, give or take one.
    public func startedAt() throws(SinkError) -> Int64 {
        try forgettingSession { session throws(SinkError) in try session.startedAt() }
    }

    /// Fails if a server answers that started at another time, so that it may have lost what was confirmed.
    func expect(startedAt start: Int64) throws(SinkError) {
        guard abs(try startedAt() - start) <= 1 else {
            throw SinkError(disposition: .retry, message: "ClickHouse was restarted and is not verified yet")
        }
    }

    /// The kinds' counts of each entity that has any.
    public func counts(of entities: [Int64], _ query: EntityQuery) throws(SinkError) -> [Int64: [EntityQuery.Count]] {
        var found: [Int64: [EntityQuery.Count]] = [:]
        for some in entities.pieces(of: EntityQuery.idsPerQuery) {
            let answer = try ask(query.counts(of: some))
            guard let counts = EntityQuery.counts(answer) else { throw .nonsense }
            for count in counts { found[count.entityID, default: []].append(count) }
        }
        return found
    }

    /// Everybody who has a reaction on each of the entities, newest first.
    public func reactors(of entities: [Int64], _ query: EntityQuery) throws(SinkError) -> [Int64: [Reactor]] {
        var found: [Int64: [Reactor]] = [:]
        for some in entities.pieces(of: EntityQuery.idsPerQuery) {
            for row in try rows(query.reactors(of: some)) { found[row.entityID, default: []].append(row.reactor) }
        }
        return found
    }

    /// Those who have a reaction on the entity by one of its newest events below a position, newest first, and the position down to
    /// which these are all; nil at the end.
    public func newest(
        _ events: Int, of entity: Int64, below position: ReactionPosition? = nil, _ query: EntityQuery
    ) throws(SinkError) -> (reactors: [Reactor], floor: ReactionPosition?) {
        let candidates = try rows(query.candidates(of: entity, below: position, limit: events))
        let page = EntityQuery.Page(candidates: candidates, limit: events)
        var found: [EntityQuery.Row] = []
        for some in page.users.pieces(of: EntityQuery.idsPerQuery) {
            found += try rows(query.reactors(among: some, of: entity))
        }
        return (page.reactors(found, below: position), page.floor)
    }

    /// A page of what the server cleared of users who are gone (`EntityQuery.clears`).
    public func clears(
        of users: [Int64], in part: Int32, above last: (userID: Int64, entityID: Int64)?, limit: Int,
        _ query: EntityQuery
    ) throws(SinkError) -> [EntityQuery.Row] {
        try rows(query.clears(of: users, in: part, above: last, limit: limit))
    }

    private func rows(_ text: String) throws(SinkError) -> [EntityQuery.Row] {
        guard let rows = EntityQuery.rows(try ask(text)) else { throw .nonsense }
        return rows
    }

    private func ask(_ text: String) throws(SinkError) -> [UInt8] {
        try forgettingSession { session throws(SinkError) in
            try session.client.query(text, settings: Removal.settings(session.abilities))
        }
    }

    private func forgettingSession<Answer>(
        _ body: (ClickHouseSession) throws(SinkError) -> Answer
    ) throws(SinkError) -> Answer {
        try session.use(settings, body)
    }
}

extension Array {
    /// Itself in slices of at most `size`.
    func pieces(of size: Int) -> [ArraySlice<Element>] {
        stride(from: 0, to: count, by: size).map { self[$0..<Swift.min($0 + size, count)] }
    }
}
