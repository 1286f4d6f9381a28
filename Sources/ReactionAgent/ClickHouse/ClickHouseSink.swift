public import ClickHouseStore
public import Pipeline
import PostgresSource
public import ReactionModel

/// Mirrors chunks into ClickHouse, exactly once: `ClickHouseSession` has the rules, `ChunkDelivery` the decisions.
///
/// Where the server does not know a block again (by its token, or in a cluster by its hash), a resend can double rows in one way: a request that the server had received whole, and
/// had not begun when the chunk was looked at. So a chunk with an unanswered attempt is looked at once more when the attempt's
/// deadline is long past, and rows that are there twice are merged.
///
/// libcurl blocks, so the actor has a thread of its own.
public actor ClickHouseSink: Sink {
    /// A confirmed chunk that had an unanswered attempt.
    private struct Suspect {
        var query: ChunkQuery
        var expected: [MirrorTable: Tally]
        var due: ContinuousClock.Instant
    }

    /// What is to be done with a chunk.
    private enum Work {
        case rows(EncodedChunk)
        case removal(Removal)
    }

    private let executor = QueueExecutor(label: "reactiond.clickhouse")
    private let settings: ClickHouseSettings
    /// Made anew after a failure of the connection: another server may answer.
    private var session: ClickHouseSession?
    private var lastIdentity: SinkIdentity?
    /// The chunk whose last attempt went unanswered, and when.
    private var unanswered: (query: ChunkQuery, at: ContinuousClock.Instant)?
    private var suspects: [Suspect] = []

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    public init(_ settings: ClickHouseSettings) {
        self.settings = settings
    }

    /// A server tells its age in whole seconds, so the start that follows from it varies by one; a server does not start twice
    /// within that.
    public func connect() async throws(SinkError) -> SinkIdentity {
        session = nil
        let found = try open().identity
        if let lastIdentity, lastIdentity.version == found.version, abs(lastIdentity.startedAt - found.startedAt) <= 1 {
            return lastIdentity
        }
        lastIdentity = found
        return found
    }

    public func insert(
        _ chunk: Chunk, catalog: [Int16: EntityType], isFirst: Bool
    ) async throws(SinkError) -> MirroredRows? {
        let query = ChunkQuery(chunk)
        do {
            let session = try open()
            try lookAgain(session)
            switch try work(chunk, catalog, session) {
            case .removal(let removal):
                try session.remove(removal, query)
                return nil
            case .rows(let rows):
                try session.deliver(rows, query, isFirst: isFirst)
                suspect(query, rows, session)
                var mirrored = MirroredRows()
                for table in MirrorTable.allCases { mirrored[table] = rows[table].tally }
                return mirrored
            }
        } catch {
            if error.isUnanswered {
                unanswered = (query, .now)
                session = nil
            }
            throw error
        }
    }

    public func settle(_ batch: BatchNumber) async throws(SinkError) -> ContinuousClock.Instant? {
        guard suspects.contains(where: { $0.query.batch == batch }) else { return nil }
        try forgettingSession { session throws(SinkError) in try lookAgain(session) }
        return suspects.filter { $0.query.batch == batch }.map(\.due).max()
    }

    public func rows(of batches: ClosedRange<BatchNumber>) async throws(SinkError) -> [BatchNumber: MirroredRows] {
        try forgettingSession { session throws(SinkError) in try session.tallies(of: batches) }
    }

    public func contains(_ chunk: Chunk, catalog: [Int16: EntityType]) async throws(SinkError) -> Bool {
        try forgettingSession { session throws(SinkError) in
            switch try work(chunk, catalog, session) {
            case .removal(let removal): try session.remaining(removal) == 0
            case .rows(let rows): try session.contains(rows, ChunkQuery(chunk))
            }
        }
    }

    public func flags(
        of keys: [ReactionKey], before batch: BatchNumber, _ version: Version, catalog: [Int16: EntityType]
    ) async throws(SinkError) -> [ReactionKey: KnownFlags] {
        try forgettingSession { session throws(SinkError) in
            var flags: [ReactionKey: KnownFlags] = [:]
            for (typeID, keys) in Dictionary(grouping: keys, by: \.typeID) {
                guard let type = catalog[typeID] else { continue }
                for (eraVersion, keys) in Dictionary(grouping: keys, by: \.era) {
                    let era = type.eras.first { $0.version == eraVersion }
                    try session.flags(of: keys, type, in: era, before: batch, version, into: &flags)
                }
            }
            return flags
        }
    }

    public func users(
        removedBy event: Event, of type: EntityType, above user: Int64?, limit: Int
    ) async throws(SinkError) -> [Int64] {
        try forgettingSession { session throws(SinkError) in
            let text = Removal.users(removedBy: event, of: type, above: user, limit: limit)
            let rows = try session.client.rows(text)
            let users = rows.compactMap { $0.first.flatMap { Int64($0) } }
            guard users.count == rows.count else { throw .nonsense }
            return users
        }
    }

    private func open() throws(SinkError) -> ClickHouseSession { try session.open(settings) }

    private func forgettingSession<Answer>(
        _ body: (ClickHouseSession) throws(SinkError) -> Answer
    ) throws(SinkError) -> Answer {
        try session.use(settings, body)
    }

    private func work(
        _ chunk: Chunk, _ catalog: [Int16: EntityType], _ session: ClickHouseSession
    ) throws(SinkError) -> Work {
        guard let event = chunk.events.first, event.scope != .reaction else {
            return .rows(try session.encode(chunk, catalog))
        }
        guard let type = catalog[event.typeID] else {
            throw .content("event \(event.version.rawValue) is of an unknown type")
        }
        return .removal(Removal(of: type, by: chunk.events, batch: chunk.batch, part: chunk.part))
    }

    // MARK: Unanswered attempts

    private func suspect(_ query: ChunkQuery, _ rows: EncodedChunk, _ session: ClickHouseSession) {
        guard let unanswered, unanswered.query == query else { return }
        self.unanswered = nil
        guard !session.isDeduplicated else { return }
        suspects.append(
            Suspect(query: query, expected: rows.tallies, due: unanswered.at + settings.requestTimeout))
    }

    private func lookAgain(_ session: ClickHouseSession) throws(SinkError) {
        while var suspect = suspects.first, suspect.due <= .now {
            let isDoubled = try session.merge(suspect.query, suspect.expected)
            suspects.removeFirst()
            guard isDoubled else { continue }
            suspect.due = .now + settings.requestTimeout
            suspects.append(suspect)
        }
    }
}

extension ChunkQuery {
    init(_ chunk: Chunk) {
        self.init(batch: chunk.batch, part: chunk.part, eventCount: chunk.events.count)
    }
}

extension SinkError {
    /// Whether the server may be at work on the request.
    var isUnanswered: Bool { status == 0 && disposition == .retry }
}
