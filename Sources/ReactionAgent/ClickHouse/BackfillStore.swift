import ClickHouseStore
import Pipeline
import PostgresSource
import ReactionModel

/// A conversation with ClickHouse beside the mirror's: about backfills, and about erasures. libcurl blocks, so the actor has a thread of its own.
///
/// A range of a table is one insert, and so one block of one partition, which is taken whole or not at all. Two attempts may bring
/// different rows, since the table changes in between, and either's are right: what is there of a range is left as it is.
actor BackfillStore {
    private let executor = QueueExecutor(label: "reactiond.clickhouse.backfill")
    private let settings: ClickHouseSettings
    private var session: ClickHouseSession?

    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    init(_ settings: ClickHouseSettings) {
        self.settings = settings
    }

    /// When the server started, in unix seconds, give or take one.
    func startedAt() throws(SinkError) -> Int64 {
        session = nil
        return try forgettingSession { session throws(SinkError) in session.identity.startedAt }
    }

    // MARK: Ranges

    /// The rows of a range that are there.
    func rows(ofRange range: Int, _ query: BackfillQuery) throws(SinkError) -> Int {
        try forgettingSession { session throws(SinkError) in try session.numbers(query.rows(ofRange: range), 1)[0] }
    }

    /// Inserts the rows of a range, at least one, of which none is there, and returns how many there are afterwards.
    func insert(
        _ rows: [BackfillRow], ofRange range: Int, of job: BackfillJob, _ query: BackfillQuery
    ) throws(SinkError) -> Int {
        try forgettingSession { session throws(SinkError) in
            let encoder = BackfillEncoder(type: job.type, layout: session.layout)
            let bytes = encoder.encode(rows, version: job.version, batch: job.batches.range(range))
            for isRepeated in [false, true] {
                try session.client.insert(
                    MirrorTable.entityMetricEvents.insert(), rows: bytes,
                    settings: session.insertSettings(token: query.token(ofRange: range), isRepeated: isRepeated),
                    queryID: query.queryID(ofRange: range, database: settings.database))
                let found: Int = try session.numbers(query.rows(ofRange: range), 1)[0]
                if found > 0 { return found }
            }
            throw SinkError(disposition: .retry, message: "entityMetricEvents does not keep what it confirms")
        }
    }

    // MARK: Sealing

    func numbers<Number: LosslessStringConvertible & Sendable>(_ text: String, _ count: Int) throws(SinkError)
        -> [Number]
    {
        try forgettingSession { session throws(SinkError) in try session.numbers(text, count) }
    }

    func rows(_ text: String) throws(SinkError) -> [[String]] {
        try forgettingSession { session throws(SinkError) in
            try session.client.rows(text, settings: Removal.settings(session.abilities))
        }
    }

    /// The answer to a histogram: rows per bucket.
    func histogram(_ text: String) throws(SinkError) -> [UInt64: Int64] {
        try forgettingSession { session throws(SinkError) in try session.histogram(text) }
    }

    /// - Parameter queryID: the server refuses the statement while another one of this id runs.
    func run(_ text: String, queryID: String?) throws(SinkError) {
        try forgettingSession { session throws(SinkError) in
            _ = try session.client.query(text, settings: Removal.settings(session.abilities), queryID: queryID)
        }
    }

    func forgettingSession<Answer>(
        _ body: (ClickHouseSession) throws(SinkError) -> Answer
    ) throws(SinkError) -> Answer {
        try session.use(settings, body)
    }
}

extension ClickHouseSession {
    /// The first row of an answer, of so many numbers.
    func numbers<Number: LosslessStringConvertible>(_ text: String, _ count: Int) throws(SinkError) -> [Number] {
        let answer = try client.rows(text, settings: Removal.settings(abilities))
        let numbers = (answer.first ?? []).compactMap { Number($0) }
        guard numbers.count == count else { throw .nonsense }
        return numbers
    }

    /// The answer to a histogram: rows per bucket.
    func histogram(_ text: String) throws(SinkError) -> [UInt64: Int64] {
        let rows = try client.rows(text, settings: Removal.settings(abilities))
        let counts = rows.compactMap { row -> (UInt64, Int64)? in
            guard row.count == 2, let bucket = UInt64(row[0]), let count = Int64(row[1]) else { return nil }
            return (bucket, count)
        }
        guard counts.count == rows.count else { throw .nonsense }
        return Dictionary(counts, uniquingKeysWith: +)
    }
}
