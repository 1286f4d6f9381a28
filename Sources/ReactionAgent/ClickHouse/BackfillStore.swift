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

    /// The rows of a range that are there because an attempt has brought all of its rows. Of a cluster's shards some may have taken
    /// theirs: there the range has to be read again, and rows that are there twice are merged when the backfill is sealed.
    func rows(ofRange range: Int, _ query: BackfillQuery) throws(SinkError) -> Int {
        try forgettingSession { session throws(SinkError) in
            session.cluster == nil ? try session.numbers(query.rows(ofRange: range), 1)[0] : 0
        }
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
                if session.cluster == nil ? found > 0 : found >= rows.count { return found }
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

    /// What has to be said to the tables that have the rows, and how it is said on this server or cluster.
    func run(
        queryID: String? = nil, _ text: @Sendable (_ cluster: MirrorCluster?, _ database: String) -> String
    ) throws(SinkError) {
        try forgettingSession { session throws(SinkError) in
            _ = try session.client.query(
                text(session.cluster, settings.database), settings: Removal.settings(session.abilities),
                queryID: queryID)
        }
    }

    /// Whether a deletion is at work on the table; has it go on where it waits for rows that follow.
    func isDeleting(from table: MirrorTable) throws(SinkError) -> Bool {
        try forgettingSession { session throws(SinkError) in
            let query = ChunkQuery.deletionsAtWork(on: table, session.cluster, database: settings.database)
            let atWork: [Int64] = try session.numbers(query, 1)
            guard atWork[0] > 0 else { return false }
            if let cluster = session.cluster, cluster.needsBlanks {
                let partitions = try session.client.rows(cluster.partitionsQuery(table, database: settings.database))
                try session.putBlanks(table, partitions: partitions.compactMap { $0.first.flatMap { Int64($0) } })
            }
            return true
        }
    }

    /// Whether a replica of the table, one that is away among them, has not carried out every deletion yet. A server alone has, if none
    /// is at work.
    func hasReplicaBehind(_ table: MirrorTable) throws(SinkError) -> Bool {
        try forgettingSession { session throws(SinkError) in
            guard let cluster = session.cluster else { return false }
            func column(_ query: String) throws(SinkError) -> [String] {
                try session.client.rows(query, settings: Removal.settings(session.abilities)).compactMap(\.first)
            }
            for path in try column(cluster.sharedPathsQuery(table, database: settings.database)) {
                guard let last = try column(MirrorCluster.deletionsQuery(path)).max() else { continue }
                for replica in try column(MirrorCluster.replicasQuery(at: path)) {
                    let done = try column(MirrorCluster.lastDeletionQuery(of: replica, at: path)).first ?? ""
                    if done < last { return true }
                }
            }
            return false
        }
    }

    /// Drops a reading that was given up, or begins to: a cluster takes until it `hasRows` no more.
    func drop(partition: Int64, from table: MirrorTable) throws(SinkError) {
        try forgettingSession { session throws(SinkError) in
            let query = BackfillQuery.drop(
                partition: partition, from: table, on: session.cluster, database: settings.database)
            _ = try session.client.query(query, settings: Removal.settings(session.abilities))
            try session.putBlanks(table, partitions: [partition])
        }
    }

    func hasRows(partition: Int64, in table: MirrorTable) throws(SinkError) -> Bool {
        try forgettingSession { session throws(SinkError) in
            let found: [Int64] = try session.numbers(BackfillQuery.rows(inPartition: partition, of: table), 1)
            return found[0] > 0
        }
    }

    /// Merges a table's rows of a backfill, unless another merge is at work. Returns whether some may still be there twice.
    ///
    /// - Parameter queryID: as of `run`.
    func merge(_ table: MirrorTable, _ query: BackfillQuery, queryID: String) throws(SinkError) -> Bool {
        try forgettingSession { session throws(SinkError) in
            let parts = query.parts(table, on: session.cluster, database: settings.database)
            let merge = query.optimize(table, on: session.cluster, database: settings.database)
            // The last one is of blanks, and stays.
            let blanks: Int64 = session.cluster?.needsBlanks == true ? 1 : 0
            let before: [Int64] = try session.numbers(parts, 1)
            guard before[0] > 1 else { return false }
            try session.putBlanks(table, partitions: [query.partition])
            _ = try session.client.query(merge, settings: Removal.settings(session.abilities), queryID: queryID)
            let left: [Int64] = try session.numbers(parts, 1)
            return left[0] > 1 + blanks
        }
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
