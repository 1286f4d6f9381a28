public import Pipeline
internal import ReactionModel

/// How to reach PostgreSQL.
public struct PostgresSettings: Sendable {
    /// A libpq connection string or URI; empty for libpq's environment variables.
    public var conninfo: String
    public var password: String?
    public var connectTimeout: Duration
    /// For one statement.
    public var timeout: Duration

    public init(
        conninfo: String, password: String? = nil, connectTimeout: Duration = .seconds(10),
        timeout: Duration = .seconds(300)
    ) {
        self.conninfo = conninfo
        self.password = password
        self.connectTimeout = connectTimeout
        self.timeout = timeout
    }
}

/// One session of PostgreSQL: the leader lock, the outbox and the batches.
///
/// An actor on a queue of its own: its methods block in poll(2), never suspend, and so follow one another whole. A failure closes the
/// session; whoever uses it opens another one and takes up what the database says is unfinished.
public actor PostgresSource {
    public struct Term: Sendable {
        public var generation: Int64
        public var systemIdentifier: UInt64
        public var timeline: UInt32
        /// `reactions.key_prefix`.
        public var keyPrefix: String
        /// Formed and not finished, in order.
        public var unfinished: [Batch]
    }

    public struct BatchLimits: Sendable {
        /// Events of one insert.
        public var chunkEvents: Int32 = 100_000
        /// A batch is cut, between transactions, after this many events. A batch of one chunk costs ClickHouse least: its rows are looked
        /// for in no part but their own.
        public var batchEvents: Int64 = 100_000
        /// How long finished batches and their events are kept.
        public var retention: Duration = .seconds(600)
        /// The current outbox table is left for the next one at this size or after this time.
        public var rotateBytes: Int64 = 256 << 20
        public var rotateAfter: Duration = .seconds(3600)
        /// Rows of one type and kind in `_skipped` above which they are summed up.
        public var skippedRows = 1000
        /// Between two rounds of dropping, emptying and rotating.
        public var maintenanceInterval: Duration = .seconds(10)

        public init() {}
    }

    /// The newest batch's row, from which the next one starts.
    struct Newest {
        var number: BatchNumber
        var snapshot: Snapshot
        var sequenceSeen: Int64
    }

    /// Class of the advisory locks: the letters RACS. Object 1 is the leader's.
    static let lockClass = 1_380_013_139

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres")
    private let wakeUp = WakeUp()
    let settings: PostgresSettings
    let limits: BatchLimits
    private let purpose: String
    private var connection: PostgresConnection?

    var generation: Int64 = 0
    var baseVersion = Version.zero
    var newest: Newest?
    var lastEmptyBatch: ContinuousClock.Instant?
    var lastMaintenance: ContinuousClock.Instant?

    /// - Parameter purpose: of the session, for `pg_stat_activity`.
    public init(settings: PostgresSettings, limits: BatchLimits = BatchLimits(), as purpose: String = "mirror") {
        self.settings = settings
        self.limits = limits
        self.purpose = purpose
    }

    /// Connects, and refuses a standby and whatever gives two statements two backends.
    public func open() throws(PostgresError) {
        connection = nil
        connection = try settings.openSession(purpose, wakeUp: wakeUp)
    }

    /// Reads the batches of this term.
    public func makeReader() -> BatchReader {
        BatchReader(settings: settings, outbox: outbox)
    }

    var outbox: OutboxRows { OutboxRows(base: baseVersion) }

    public func close() {
        connection = nil
        newest = nil
    }

    /// Ends a wait for the bell at once.
    public nonisolated func interrupt() {
        wakeUp.signal()
    }

    /// The installed version of the extension; nil if it is not installed.
    public func extensionVersion() throws(PostgresError) -> String? {
        try session.query("SELECT extversion FROM pg_extension WHERE extname = 'pg_reactions'").text(0, 0)
    }

    /// Tries for the leader's lock, which the session then holds until it ends.
    public func becomeLeader() throws(PostgresError) -> Bool {
        try session.query("SELECT pg_try_advisory_lock(\(Self.lockClass), 1)").isTrue(0, 0)
    }

    /// Whether some agent holds that lock.
    static func isLed(_ session: PostgresConnection) throws(PostgresError) -> Bool {
        try session.query(
            """
            SELECT EXISTS (
                SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = \(lockClass) AND objid = 1
                  AND objsubid = 2 AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
            """
        ).isTrue(0, 0)
    }

    /// The first thing a leader does: settles generation and base version, listens, and reads what is unfinished.
    public func beginTerm() throws(PostgresError) -> Term {
        let session = try session
        generation = try session.query("SELECT reactions._current_generation()").required(0, 0)
        let cluster = try session.query("SELECT system_identifier, timeline FROM reactions._cluster()")
        _ = try session.query("INSERT INTO reactions._mirror DEFAULT VALUES ON CONFLICT DO NOTHING")
        newest = try readNewest()
        try settleBase()
        baseVersion = Version(rawValue: try session.query("SELECT base_version FROM reactions._mirror").required(0, 0))
        _ = try session.execute("LISTEN reactions")
        return Term(
            generation: generation,
            systemIdentifier: UInt64(bitPattern: try cluster.required(0, 0, as: Int64.self)),
            timeline: UInt32(truncatingIfNeeded: try cluster.required(0, 1, as: Int64.self)),
            keyPrefix: try session.query("SELECT current_setting('reactions.key_prefix', true)").text(0, 0) ?? "",
            unfinished: try unfinishedBatches())
    }

    /// Microseconds since 1970-01-01 UTC by the server's clock. Succeeds only while the session, and with it the lock, lives.
    public func now() throws(PostgresError) -> Int64 {
        try session.query("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").required(0, 0)
    }

    /// Sets the bell's flag and returns a transaction id assigned afterwards: a writer that had not seen the flag has a lower one.
    public func fallAsleep() throws(PostgresError) -> UInt64 {
        _ = try session.query("SELECT reactions._set_asleep(true)")
        return try session.query("SELECT pg_current_xact_id()").required(0, 0)
    }

    /// Clears the flag that `fallAsleep` has set.
    public func stayAwake() throws(PostgresError) {
        _ = try session.query("SELECT reactions._set_asleep(false)")
    }

    /// Waits for a notification, at most `heartbeat`.
    public func awaitBell(heartbeat: Duration) throws(PostgresError) {
        _ = try session.waitForNotification(timeout: heartbeat)
    }

    /// Makes every user map of the types absent. Returns false if another transaction holds the row of one of them, as one does that
    /// truncates an attached table: the session waits for it only shortly, being the only one.
    public func raiseEpochs(_ types: Set<Int16>) throws(PostgresError) -> Bool {
        let session = try session
        do throws(PostgresError) {
            for type in types.sorted() {
                _ = try session.execute(
                    "SET LOCAL lock_timeout = '1s'; SELECT reactions._raise_epoch(\(type)::smallint)")
            }
            return true
        } catch  where error.sqlState == "55P03" {
            return false
        }
    }

    /// What is open, if it can be used.
    var session: PostgresConnection {
        get throws(PostgresError) { try connection.usable }
    }

    /// Runs statements as one transaction, rolled back when they throw.
    func transaction<Result>(
        _ mode: String, _ body: (PostgresConnection) throws(PostgresError) -> Result
    ) throws(PostgresError) -> Result {
        let session = try session
        _ = try session.execute("BEGIN \(mode)")
        do {
            let result = try body(session)
            _ = try session.execute("COMMIT")
            return result
        } catch {
            if session.isUsable { _ = try session.execute("ROLLBACK") }
            throw error
        }
    }

    /// After a restored dump nothing of this cluster was delivered, and the rows' transaction ids are another cluster's. After a
    /// failover or a point-in-time restore ClickHouse may hold events that never were. Either asks for a match.
    private func settleBase() throws(PostgresError) {
        if let newest {
            guard newest.number.rawValue >> Version.sequenceBits < generation else { return }
            _ = try session.query(
                """
                UPDATE reactions._mirror SET match_wanted = concat_ws('; ', match_wanted, 'generation raised to \(generation)')
                WHERE match_wanted IS NULL OR match_wanted NOT LIKE '%generation raised to \(generation)%'
                """)
        } else {
            _ = try session.query(
                """
                WITH here AS (
                    SELECT system_identifier FROM reactions._generation ORDER BY generation DESC LIMIT 1
                ), foreign_ AS (
                    SELECT max(g.generation)::bigint AS last FROM reactions._generation g, here
                    WHERE g.system_identifier <> here.system_identifier
                )
                UPDATE reactions._mirror
                SET base_version = (foreign_.last + 1) << 44,
                    match_wanted = CASE WHEN match_wanted LIKE '%restored from a dump%' THEN match_wanted
                        ELSE concat_ws('; ', match_wanted, 'restored from a dump') END
                FROM foreign_ WHERE foreign_.last IS NOT NULL
                """)
        }
    }
}
