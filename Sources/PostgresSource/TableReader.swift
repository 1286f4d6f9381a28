public import Pipeline
public import ReactionModel

/// Reads ranges of blocks of an attached table, in a session of its own.
public actor TableReader {
    public enum Answer: Sendable {
        case rows([BackfillRow], skipped: Int64)
        /// The table was rewritten (VACUUM FULL, CLUSTER, some ALTER TABLE): the ranges are others.
        case rewritten
        /// The backfill is over: the table was truncated or detached, or a new one has begun.
        case outdated
    }

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.table")
    private let settings: PostgresSettings
    private var connection: PostgresConnection?

    public init(settings: PostgresSettings) {
        self.settings = settings
    }

    /// The rows of a range that are committed now.
    ///
    /// The lock comes before the snapshot of the COPY, and the file is compared under the lock: what is read are that file's rows, whole.
    public func read(_ range: Int, of job: BackfillJob) throws(PostgresError) -> Answer {
        let connection = try open()
        do throws(PostgresError) {
            let answer = try read(range, of: job, connection)
            _ = try connection.execute("COMMIT")
            return answer
        } catch {
            // Rolls back, and ends a COPY in its middle.
            self.connection = nil
            throw error
        }
    }

    private func read(
        _ range: Int, of job: BackfillJob, _ connection: PostgresConnection
    ) throws(PostgresError) -> Answer {
        let table = job.table
        let found = try connection.execute(
            """
            BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; LOCK TABLE \(table.name) IN ACCESS SHARE MODE;
            SELECT pg_relation_filenode(t.legacy_table)::bigint,
                   (SELECT max(b.version) FROM reactions._backfill b WHERE b.type_id = t.type_id)
            FROM reactions.entity_type t WHERE t.type_id = \(job.type.typeID) AND t.legacy_table IS NOT NULL
            """)
        guard let current = found.last, current.value(0, 1) == job.version.rawValue else { return .outdated }
        guard current.value(0, 0) == job.relfilenode else { return .rewritten }
        let first = Int64(range) * job.rangeBlocks
        try connection.beginCopy(
            """
            COPY (SELECT \(LegacyRowDecoder.columns(of: table)) FROM ONLY \(table.name) \
            WHERE ctid >= '(\(first),0)' AND ctid < '(\(min(first + job.rangeBlocks, job.blocks)),0)') \
            TO STDOUT (FORMAT binary)
            """)
        var decoder = LegacyRowDecoder(table, job.type)
        var rows: [BackfillRow] = []
        _ = try connection.continueCopy { bytes throws(PostgresError) in
            if let row = try decoder.decode(bytes) { rows.append(row) }
            return true
        }
        return .rows(rows, skipped: decoder.skipped)
    }

    private func open() throws(PostgresError) -> PostgresConnection {
        try connection.usable { () throws(PostgresError) in try settings.openSession("backfill reader") }
    }
}
