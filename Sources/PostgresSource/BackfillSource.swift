public import Pipeline
internal import ReactionModel

/// The session that says who backfills, and keeps the progress: `reactions._backfill` and `reactions._backfill_range`.
///
/// What it writes before something is sent is durable on return; what it writes afterwards need not be, since it is found again.
public actor BackfillSource {
    /// What of a reading is sent to ClickHouse, and what is confirmed.
    public struct SentRanges: Sendable {
        public var confirmed: [Int] = []
        /// ClickHouse may have them or not.
        public var tried: [Int] = []
    }

    /// Object of the advisory lock; 1 is the leader's, 2 the bell's.
    private static let lockObject = 3

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.backfill")
    private let settings: PostgresSettings
    /// Reads the catalog as the mirror does, in this actor's session.
    private var connection: PostgresConnection?

    public init(settings: PostgresSettings) {
        self.settings = settings
    }

    public func open() throws(PostgresError) {
        connection = nil
        connection = try settings.openSession("backfill")
    }

    public func close() {
        connection = nil
    }

    /// Tries for the lock of the one that backfills, which the session then holds until it ends.
    public func takeLock() throws(PostgresError) -> Bool {
        try session.query("SELECT pg_try_advisory_lock(\(PostgresSource.lockClass), \(Self.lockObject))").isTrue(0, 0)
    }

    /// Returns as long as the session, and with it the lock, lives.
    public func checkLock() throws(PostgresError) {
        _ = try session.query("SELECT 1")
    }

    // MARK: What is to be done

    /// Begins the backfills that a restored dump has lost.
    public func beginLost() throws(PostgresError) {
        _ = try session.queryPrepared(
            """
            SELECT reactions.restart_backfill(t.entity_type) FROM reactions.entity_type t
            WHERE NOT t.backfilled AND t.legacy_table IS NOT NULL
              AND NOT EXISTS (SELECT FROM reactions._backfill b WHERE b.type_id = t.type_id AND b.sealed_at IS NULL)
            """)
    }

    /// The names of types whose backfill is to be gone on with.
    /// - Parameter all: else those that were asked for.
    public func pending(all: Bool) throws(PostgresError) -> [String] {
        let result = try session.queryPrepared(
            """
            SELECT t.entity_type FROM reactions.entity_type t
            JOIN LATERAL (SELECT * FROM reactions._backfill b WHERE b.type_id = t.type_id ORDER BY b.version DESC LIMIT 1) b ON true
            WHERE b.sealed_at IS NULL AND t.legacy_table IS NOT NULL AND ($1::boolean OR b.requested_at IS NOT NULL)
            ORDER BY b.version
            """, ["\(all)"])
        return result.rows.compactMap { result.text($0, 0) }
    }

    /// The current backfill of a type; nil if there is none to be gone on with.
    public func job(_ entityType: String) throws(PostgresError) -> BackfillJob? {
        let session = try session
        let result = try session.query(
            """
            SELECT t.type_id, b.version, b.seal_version, b.number, b.relfilenode::bigint, b.blocks, b.range_blocks, b.abandoned,
                   b.read_at IS NOT NULL, b.complete_batch, b.sealed_users, b.doubled,
                   NOT EXISTS (SELECT FROM reactions._batch n WHERE n.batch <= b.complete_batch AND n.finished_at IS NULL)
            FROM reactions.entity_type t JOIN reactions._backfill b USING (type_id)
            WHERE t.entity_type = $1 AND t.legacy_table IS NOT NULL AND b.sealed_at IS NULL
            ORDER BY b.version DESC LIMIT 1
            """, [entityType])
        guard !result.rows.isEmpty else { return nil }
        let typeID = try result.required(0, 0, as: Int16.self)
        guard let type = try PostgresSource.catalog(session)[typeID],
            let table = try PostgresSource.legacyTable(of: typeID, session)
        else { return nil }
        return BackfillJob(
            type: type, table: table, version: Version(rawValue: try result.required(0, 1)),
            sealVersion: Version(rawValue: try result.required(0, 2)), number: try result.required(0, 3),
            relfilenode: try result.required(0, 4), blocks: try result.required(0, 5),
            rangeBlocks: try result.required(0, 6), abandoned: result.numbers(0, 7), isRead: result.isTrue(0, 8),
            completeBatch: result.value(0, 9).map(BatchNumber.init(rawValue:)),
            isCompleteBatchFinished: result.isTrue(0, 12), sealedUsers: result.value(0, 10),
            isDoubled: result.isTrue(0, 11))
    }

    /// How long the oldest event that is in no finished batch has waited, and zero without one.
    public func lag() throws(PostgresError) -> Duration {
        try PostgresSource.lag(session)
    }

    // MARK: Reading

    public func sentRanges(_ job: BackfillJob) throws(PostgresError) -> SentRanges {
        let result = try session.query(
            "SELECT range, confirmed_at IS NOT NULL FROM reactions._backfill_range WHERE number = \(job.number)")
        var sent = SentRanges()
        for row in result.rows {
            let range = try result.required(row, 0, as: Int.self)
            if result.isTrue(row, 1) { sent.confirmed.append(range) } else { sent.tried.append(range) }
        }
        return sent
    }

    /// A range is about to be sent. Flushes every commit that it was read from: what a crash could undo would stay in ClickHouse for ever.
    public func rangeRead(_ range: Int, rows: Int64, skipped: Int64, _ job: BackfillJob) throws(PostgresError) {
        _ = try session.query(
            """
            INSERT INTO reactions._backfill_range (number, range, rows, skipped) VALUES ($1::integer, $2::integer, $3::bigint, $4::bigint)
            ON CONFLICT (number, range) DO UPDATE SET rows = excluded.rows, skipped = excluded.skipped
            """, ["\(job.number)", "\(range)", "\(rows)", "\(skipped)"])
    }

    public func rangeConfirmed(_ range: Int, rows: Int64, _ job: BackfillJob) throws(PostgresError) {
        _ = try session.execute(
            """
            SET LOCAL synchronous_commit = off;
            UPDATE reactions._backfill_range SET rows = \(rows), confirmed_at = clock_timestamp()
            WHERE number = \(job.number) AND range = \(range);
            UPDATE reactions._backfill SET error = NULL WHERE number = \(job.number) AND error IS NOT NULL
            """)
    }

    /// ClickHouse has started anew: what it confirmed before is to be looked for again. Returns how many ranges that are.
    /// - Parameter time: microseconds since 1970-01-01 UTC.
    public func distrustRanges(confirmedBefore time: Int64, _ job: BackfillJob) throws(PostgresError) -> Int {
        try session.query(
            """
            UPDATE reactions._backfill_range SET confirmed_at = NULL
            WHERE number = \(job.number) AND confirmed_at < to_timestamp(\(time / 1_000_000)) RETURNING range
            """
        ).rows.count
    }

    /// The table was rewritten: it is read anew, under the same versions, as the rows are the same.
    public func tableRewritten(_ job: BackfillJob) throws(PostgresError) {
        _ = try session.execute(
            """
            LOCK TABLE \(job.table.name) IN ACCESS SHARE MODE;
            UPDATE reactions._backfill b
            SET abandoned = b.abandoned || reactions._backfill_partition(b.version, b.number), number = nextval('reactions._backfill_number'),
                relfilenode = pg_relation_filenode(t.legacy_table),
                blocks = pg_relation_size(t.legacy_table) / current_setting('block_size')::bigint
            FROM reactions.entity_type t
            WHERE t.type_id = b.type_id AND b.type_id = \(job.type.typeID) AND b.number = \(job.number) AND b.read_at IS NULL;
            DELETE FROM reactions._backfill_range WHERE number = \(job.number)
            """)
    }

    /// Every range is confirmed. A version is drawn, so that the mirror forms a batch even if nobody writes, and it is woken.
    public func tableRead(_ job: BackfillJob) throws(PostgresError) {
        _ = try session.execute(
            """
            UPDATE reactions._backfill b
            SET read_at = clock_timestamp(), error = NULL, (rows, skipped) = (
                SELECT coalesce(sum(r.rows), 0), coalesce(sum(r.skipped), 0) FROM reactions._backfill_range r WHERE r.number = b.number)
            WHERE b.number = \(job.number) AND b.read_at IS NULL;
            SELECT nextval('reactions._version'); NOTIFY reactions
            """)
    }

    // MARK: Sealing

    /// - Parameter isDoubled: rows may be there twice until they are merged.
    public func usersSealed(through user: Int64?, isDoubled: Bool, _ job: BackfillJob) throws(PostgresError) {
        _ = try session.query(
            """
            UPDATE reactions._backfill SET sealed_users = coalesce($1::bigint, sealed_users), doubled = $2::boolean, error = NULL
            WHERE number = \(job.number)
            """, [user.map { "\($0)" }, "\(isDoubled)"])
    }

    /// ClickHouse agrees with the table: capture need not report rows that were only rewritten. False if a new backfill has begun.
    public func sealed(_ job: BackfillJob) throws(PostgresError) -> Bool {
        // TRUNCATE's trigger updates the type's row before it begins a new backfill: behind the lock it is seen.
        let results = try session.execute(
            """
            SELECT FROM reactions.entity_type WHERE type_id = \(job.type.typeID) FOR UPDATE;
            WITH current AS (
                SELECT b.type_id FROM reactions._backfill b JOIN reactions.entity_type t USING (type_id)
                WHERE b.number = \(job.number) AND t.legacy_table IS NOT NULL AND b.version = (
                    SELECT max(c.version) FROM reactions._backfill c WHERE c.type_id = b.type_id)
            ), flipped AS (
                UPDATE reactions.entity_type t SET backfilled = true FROM current WHERE t.type_id = current.type_id RETURNING t.type_id
            ), done AS (
                UPDATE reactions._backfill SET sealed_at = clock_timestamp(), error = NULL
                WHERE number = \(job.number) AND EXISTS (SELECT FROM flipped)
            ), gone AS (
                DELETE FROM reactions._backfill_range r USING reactions._backfill b
                WHERE b.number = r.number AND b.type_id = \(job.type.typeID)
            )
            SELECT count(*) FROM flipped
            """)
        return results.compactMap { $0.value(0, 0, as: Int64.self) }.last == 1
    }

    /// Keeps what is wrong where the operator finds it. Not between the last range and the batch that completes it: the mirror, which
    /// then writes the row, would fail over it.
    public func failed(_ entityType: String, _ error: String) throws(PostgresError) {
        _ = try session.query(
            """
            UPDATE reactions._backfill b SET error = $2 FROM reactions.entity_type t
            WHERE t.type_id = b.type_id AND t.entity_type = $1 AND b.sealed_at IS NULL AND b.error IS DISTINCT FROM $2
              AND (b.read_at IS NULL OR b.complete_batch IS NOT NULL)
              AND b.version = (SELECT max(c.version) FROM reactions._backfill c WHERE c.type_id = b.type_id)
            """, [entityType, error])
    }

    var session: PostgresConnection {
        get throws(PostgresError) { try connection.usable }
    }
}
