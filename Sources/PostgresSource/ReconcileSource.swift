public import ClickHouseStore
public import Pipeline
public import ReactionModel

/// The session of one reconciliation: its lock, its row of `reactions.reconcile_run`, what it found.
public actor ReconcileSource {
    /// What there is to know of the database.
    public struct Place: Sendable {
        public var types: [EntityType]
        public var systemIdentifier: UInt64
        public var timeline: UInt32
        public var keyPrefix: String
    }

    /// How long runs are kept.
    static let retention = "30 days"
    /// Object of the advisory lock; 1 is the leader's, 2 the bell's, 3 the backfill's, 4 the match's.
    private static let lockObject = 5

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.reconcile")
    private let settings: PostgresSettings
    private var connection: PostgresConnection?

    public init(settings: PostgresSettings) {
        self.settings = settings
    }

    public func open() throws(PostgresError) {
        connection = nil
        connection = try settings.openSession("reconcile")
    }

    public func close() {
        connection = nil
    }

    /// Tries for the lock of the one that reconciles, which the session then holds until it ends. It keeps two of them from doing the
    /// same work, no more: what they do to Redis they may do at once.
    public func takeLock() throws(PostgresError) -> Bool {
        try session.query("SELECT pg_try_advisory_lock(\(PostgresSource.lockClass), \(Self.lockObject))").isTrue(0, 0)
    }

    public func releaseLock() throws(PostgresError) {
        _ = try session.query("SELECT pg_advisory_unlock(\(PostgresSource.lockClass), \(Self.lockObject))")
    }

    /// The backend that holds the lock.
    public func lockHolder() throws(PostgresError) -> Int32? {
        try session.query(
            """
            SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = \(PostgresSource.lockClass) AND objid = \(Self.lockObject)
              AND objsubid = 2 AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            """
        ).value(0, 0)
    }

    /// The installed version of the extension; nil if it is not installed.
    public func extensionVersion() throws(PostgresError) -> String? {
        try session.query("SELECT extversion FROM pg_extension WHERE extname = 'pg_reactions'").text(0, 0)
    }

    public func place() throws(PostgresError) -> Place {
        let session = try session
        let types = Array(try PostgresSource.catalog(session).values).sorted { $0.typeID < $1.typeID }
        let found = try session.query(
            """
            SELECT system_identifier, timeline, current_setting('reactions.key_prefix', true) FROM reactions._cluster()
            """)
        return Place(
            types: types,
            systemIdentifier: UInt64(bitPattern: try found.required(0, 0, as: Int64.self)),
            timeline: UInt32(truncatingIfNeeded: try found.required(0, 1, as: Int64.self)),
            keyPrefix: found.text(0, 2) ?? "")
    }

    /// The newest batch that is finished with all before it: every one up to it is in ClickHouse, and counted in Redis.
    public func counted() throws(PostgresError) -> BatchNumber {
        let result = try session.query(
            """
            SELECT coalesce(max(b.batch), 0) FROM reactions._batch b
            WHERE b.finished_at IS NOT NULL AND b.batch < coalesce(
                (SELECT min(u.batch) FROM reactions._batch u WHERE u.finished_at IS NULL), b.batch + 1)
            """)
        return BatchNumber(rawValue: try result.required(0, 0))
    }

    /// The kept batches with events that ClickHouse had confirmed before a time, in unix seconds; ascending. Without rows if it is not
    /// known how many there are.
    public func batches(
        confirmedBefore time: Int64
    ) throws(PostgresError) -> [(number: BatchNumber, mirrored: MirroredRows?)] {
        let found = try session.query(
            """
            SELECT batch, mirrored FROM reactions._batch WHERE confirmed_at < to_timestamp(\(time)) AND events > 0 ORDER BY batch
            """)
        var batches: [(number: BatchNumber, mirrored: MirroredRows?)] = []
        for row in found.rows {
            batches.append(
                (BatchNumber(rawValue: try found.required(row, 0)), MirroredRows(numbers: found.numbers(row, 1))))
        }
        return batches
    }

    /// Those of the batches of which ClickHouse may have made some of the rows itself, or has got chunks in pieces.
    public func inOtherPieces(_ batches: Set<BatchNumber>) throws(PostgresError) -> Set<BatchNumber> {
        let numbers = batches.map { "\($0.rawValue)" }.joined(separator: ",")
        let found = try session.query(
            """
            SELECT b.batch FROM reactions._batch b WHERE b.batch = ANY ($1::bigint[])
              AND (b.mirrored IS NULL OR EXISTS (SELECT FROM reactions.parked_event p WHERE p.batch = b.batch))
            """, ["{\(numbers)}"])
        var some: Set<BatchNumber> = []
        for row in found.rows { some.insert(BatchNumber(rawValue: try found.required(row, 0))) }
        return some
    }

    // MARK: The run

    /// Whether the last run that ended began longer ago than the interval, and none was tried just now.
    public func isDue(every interval: Duration) throws(PostgresError) -> Bool {
        let seconds = Double(interval.components.seconds)
        return try session.query(
            """
            SELECT coalesce(max(started_at) FILTER (WHERE finished_at IS NOT NULL AND NOT is_dry)
                       < clock_timestamp() - $1::float8 * interval '1 s', true)
               AND coalesce(max(started_at) < clock_timestamp() - $2::float8 * interval '1 s', true)
            FROM reactions.reconcile_run
            """, ["\(seconds)", "\(min(seconds, Double(MatchSource.retryInterval.components.seconds)))"]
        ).isTrue(0, 0)
    }

    /// When keys were last looked at by a reconciliation, in Unix seconds; nil if never. What was used since, somebody else has used.
    public func lastLook() throws(PostgresError) -> Int64? {
        try session.query("SELECT extract(epoch FROM max(looked_at))::bigint FROM reactions.reconcile_run").value(0, 0)
    }

    public func begin(_ types: [String], isDry: Bool, isDeep: Bool) throws(PostgresError) -> Int64 {
        let session = try session
        _ = try session.query(
            """
            DELETE FROM reactions.reconcile_run
            WHERE started_at < clock_timestamp() - interval '\(Self.retention)'
              AND reconcile_run_id < (SELECT max(r.reconcile_run_id) FROM reactions.reconcile_run r WHERE r.finished_at IS NOT NULL)
            """)
        let begun = try session.query(
            """
            INSERT INTO reactions.reconcile_run (entity_types, is_dry, is_deep)
            SELECT coalesce(array_agg(t.entity_type ORDER BY t.type_id), '{}'), $2::boolean, $3::boolean
            FROM reactions.entity_type t WHERE t.entity_type IN (SELECT jsonb_array_elements_text($1::jsonb))
            RETURNING reconcile_run_id
            """, [Self.array(types), "\(isDry)", "\(isDeep)"])
        return try begun.required(0, 0)
    }

    /// Also tells that the lock is still held.
    public func progressed(_ run: Int64, _ tally: ReconcileTally) throws(PostgresError) {
        _ = try session.query(
            """
            UPDATE reactions.reconcile_run SET \(Self.columns(tally)), looked_at = clock_timestamp() WHERE reconcile_run_id = \(run)
            """)
    }

    /// All that was found, in one transaction.
    public func finish(_ run: Int64, _ tally: ReconcileTally) throws(PostgresError) {
        let classes = tally.counts.map { key, count in
            Self.object([
                ("entity_type", key.entityType), ("class", key.name), ("is_fault", "\(key.isFault)"),
                ("found", "\(count.found)"), ("repaired", "\(count.repaired)"),
            ])
        }
        let findings = tally.findings.map { finding in
            Self.object([
                ("redis_key", finding.key), ("entity_type", finding.entityType),
                ("entity_id", finding.entityID.map { "\($0)" }), ("class", finding.fault.rawValue),
                ("detail", finding.detail), ("is_repaired", "\(finding.isRepaired)"),
            ])
        }
        let shards = tally.shards.map { key, use in
            Self.object([
                ("entity_type", key.entityType), ("shard", "\(key.shard)"),
                ("regular_entities", "\(use.regularEntities)"), ("viral_entities", "\(use.viralEntities)"),
                ("entity_bytes", use.entityBytes.map { "\($0)" }), ("user_maps", "\(use.userMaps)"),
                ("user_map_bytes", use.userMapBytes.map { "\($0)" }),
            ])
        }
        _ = try session.query(
            """
            WITH class AS (
                INSERT INTO reactions.reconcile_class
                SELECT \(run), c.* FROM jsonb_to_recordset($1::jsonb)
                    c (entity_type text, class text, is_fault boolean, found bigint, repaired bigint)
            ), finding AS (
                INSERT INTO reactions.reconcile_finding
                SELECT \(run), f.* FROM jsonb_to_recordset($2::jsonb)
                    f (redis_key text, entity_type text, entity_id bigint, class text, detail text, is_repaired boolean)
                ON CONFLICT DO NOTHING
            ), shard AS (
                INSERT INTO reactions.reconcile_shard (reconcile_run_id, entity_type, shard, regular_entities, viral_entities,
                    entity_bytes, user_maps, user_map_bytes)
                SELECT \(run), s.* FROM jsonb_to_recordset($3::jsonb)
                    s (entity_type text, shard integer, regular_entities bigint, viral_entities bigint, entity_bytes bigint,
                       user_maps bigint, user_map_bytes bigint)
            )
            UPDATE reactions.reconcile_run SET \(Self.columns(tally)), looked_at = clock_timestamp(), finished_at = clock_timestamp()
            WHERE reconcile_run_id = \(run)
            """,
            [
                "[\(classes.joined(separator: ","))]", "[\(findings.joined(separator: ","))]",
                "[\(shards.joined(separator: ","))]",
            ])
    }

    /// Keeps what ended a run where the operator finds it.
    public func failed(_ run: Int64, _ error: String) throws(PostgresError) {
        _ = try session.query(
            """
            UPDATE reactions.reconcile_run SET error = $1, looked_at = clock_timestamp()
            WHERE reconcile_run_id = \(run) AND finished_at IS NULL
            """, [error])
    }

    private static func columns(_ tally: ReconcileTally) -> String {
        """
        expected = \(tally.expected), scanned = \(tally.scanned), verified = \(tally.verified), found = \(tally.found), \
        repaired = \(tally.repaired), kept = \(tally.kept)
        """
    }

    // MARK: JSON

    private static func array(_ texts: [String]) -> String {
        "[\(texts.map(quoted).joined(separator: ","))]"
    }

    private static func object(_ fields: [(name: String, value: String?)]) -> String {
        "{\(fields.map { "\"\($0.name)\":\($0.value.map(quoted) ?? "null")" }.joined(separator: ","))}"
    }

    /// What a key holds may be anything; PostgreSQL's texts hold no zero.
    private static func quoted(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\": quoted += "\\\(scalar)"
            case "\0": quoted += "?"
            case _ where scalar.value < 0x20: quoted += " "
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }

    func query(_ sql: String) throws(PostgresError) -> PostgresResult {
        try session.query(sql)
    }

    private var session: PostgresConnection {
        get throws(PostgresError) {
            guard let connection, connection.isUsable else {
                throw PostgresError(disposition: .reconnect, message: "the session has ended")
            }
            return connection
        }
    }
}
