import ClickHouseStore
import Pipeline
import PostgresSource

/// A conversation with ClickHouse about the states of reactions. libcurl blocks, so the actor has a thread of its own.
actor MirrorStates {
    private let executor = QueueExecutor(label: "reactiond.clickhouse.states")
    private let settings: ClickHouseSettings
    private let query: MatchQuery
    private var session: ClickHouseSession?

    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    init(_ settings: ClickHouseSettings, _ query: MatchQuery) {
        self.settings = settings.patient()
        self.query = query
    }

    /// The users that ClickHouse knows, and the reactions that they have, about.
    func extent() throws(SinkError) -> (users: ClosedRange<Int64>?, reactions: Int64) {
        try forgettingSession { session throws(SinkError) in
            let found: [Int64] = try session.numbers(query.typeRows.users(above: nil), 4)
            return (found[2] == 0 ? nil : found[0]...found[1], max(found[3], 0))
        }
    }

    func histogram(_ users: ClosedRange<Int64>, width: UInt64) throws(SinkError) -> [UInt64: Int64] {
        try forgettingSession { session throws(SinkError) in
            try session.histogram(query.typeRows.histogram(users, width: width))
        }
    }

    /// The next reactions of some users, at most `limit`, in order.
    func states(
        of users: ClosedRange<Int64>, after last: MatchQuery.State?, limit: Int
    ) throws(SinkError) -> [MatchQuery.State] {
        try states(query.states(of: users, after: last, limit: limit))
    }

    func states(of keys: ArraySlice<MatchKey>) throws(SinkError) -> [MatchKey: MatchQuery.State] {
        let states = try states(query.states(of: keys.lazy.map { ($0.userID, $0.entityID) }))
        return Dictionary(states.map { ($0.key, $0) }) { first, _ in first }
    }

    private func states(_ text: String) throws(SinkError) -> [MatchQuery.State] {
        try forgettingSession { session throws(SinkError) in
            let answer = try session.client.query(text, settings: Removal.settings(session.abilities))
            guard let states = MatchQuery.states(answer) else { throw .nonsense }
            return states
        }
    }

    private func forgettingSession<Answer>(
        _ body: (ClickHouseSession) throws(SinkError) -> Answer
    ) throws(SinkError) -> Answer {
        try session.use(settings, body)
    }
}

/// Runs of user ids that together are all there are, each with about as many rows in ClickHouse: users that it does not know are in them,
/// too.
struct UserSlices {
    private var plan: SlicePlan
    private let states: MirrorStates
    private var next: Int64?
    private let end: Int64

    /// - Parameters:
    ///   - known: users that have rows.
    ///   - users: whom the slices cover.
    init(known: ClosedRange<Int64>?, of users: ClosedRange<Int64>, rows: Int64, _ states: MirrorStates) {
        let known = known.flatMap { $0.overlaps(users) ? $0.clamped(to: users) : nil }
        plan = SlicePlan(users: known, sliceRows: rows)
        next = users.lowerBound
        end = users.upperBound
        self.states = states
    }

    /// Nil at the end.
    mutating func nextSlice() async throws -> ClosedRange<Int64>? {
        guard let first = next else { return nil }
        while true {
            switch plan.action {
            case .finish:
                next = nil
                return first...end
            case .count(let users, let width):
                plan.counted(try await states.histogram(users, width: width))
            case .take(let users):
                plan.taken()
                next = users.upperBound < end ? users.upperBound + 1 : nil
                return first...users.upperBound
            }
        }
    }
}

/// The states of a slice, in pieces of a fixed size, each asked for when the one before has been looked at.
struct StatePieces {
    /// Rows in ClickHouse that are grouped at a time, and reactions of an answer.
    private static let rows: Int64 = 1 << 19

    private let states: MirrorStates
    private var slices: UserSlices
    private var users: ClosedRange<Int64>?
    private var last: MatchQuery.State?

    init(known: ClosedRange<Int64>?, of users: ClosedRange<Int64>, _ states: MirrorStates) {
        self.states = states
        slices = UserSlices(known: known, of: users, rows: Self.rows, states)
    }

    /// None at the end.
    mutating func next() async throws -> [MatchQuery.State] {
        while true {
            if users == nil { users = try await slices.nextSlice() }
            guard let users else { return [] }
            let piece = try await states.states(of: users, after: last, limit: Int(Self.rows))
            last = piece.last
            // A piece that is not full is the last one of its users.
            if piece.count < Self.rows {
                self.users = nil
                last = nil
            }
            if !piece.isEmpty { return piece }
        }
    }
}
