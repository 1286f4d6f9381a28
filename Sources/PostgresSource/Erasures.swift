public import ReactionModel

/// Users who are to be erased, as `reactions.forgotten_user` says, over a session of its own.
public actor Erasures {
    public struct Tombstone: Sendable {
        public var userID: Int64
        public var version: Version
    }

    public struct Pending: Sendable {
        /// Not erased yet.
        public var count = 0
        /// Since the first of them was asked for.
        public var oldestSeconds: Int64 = 0
        /// Those of whom nothing can come any more: each once, with its newest version of those.
        public var ready: [Tombstone] = []
    }

    /// What there is to know of the database for their maps in Redis.
    public struct Place: Sendable {
        public var types: [EntityType]
        public var systemIdentifier: UInt64
        public var timeline: UInt32
        public var keyPrefix: String
    }

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.erasures")
    private let wakeUp = WakeUp()
    private let settings: PostgresSettings
    private var connection: PostgresConnection?

    public init(settings: PostgresSettings) {
        self.settings = settings
    }

    public func close() {
        connection = nil
    }

    /// Ends what is waiting for PostgreSQL.
    public nonisolated func interrupt() {
        wakeUp.signal()
    }

    public func extensionVersion() throws(PostgresError) -> String? {
        try query("SELECT extversion FROM pg_extension WHERE extname = 'pg_reactions'").text(0, 0)
    }

    /// Un-reacts what the user has; durable on return.
    public func forget(_ user: Int64) throws(PostgresError) {
        _ = try query("CALL reactions.forget_user($1::bigint)", ["\(user)"])
    }

    /// Looks how far the pending ones are, and has the outbox rotated where it holds rows of theirs.
    ///
    /// In this order nothing can come back: with the floor at the tombstone's version every event up to it is in a finished batch; with every
    /// backfill sealed none of the rows that it has read is under way; and with no row in the outbox no kept batch has any, so nothing is
    /// sent again after a restart of ClickHouse.
    public func pending(atMost limit: Int) throws(PostgresError) -> Pending {
        let counted = try open().queryPrepared(
            """
            SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(requested_at)), 0)::bigint
            FROM reactions.forgotten_user WHERE state <> 'erased'
            """)
        var pending = Pending(count: try counted.required(0, 0), oldestSeconds: try counted.required(0, 1))
        guard pending.count > 0 else { return pending }
        _ = try query(
            """
            UPDATE reactions.forgotten_user SET state = 'removed'
            WHERE state = 'requested' AND version <= (SELECT floor FROM reactions._mirror)
            """)
        let found = try query(
            """
            SELECT f.user_id, f.version, f.waits_for, CASE
                WHEN f.state = 'requested' THEN 'mirror'
                WHEN EXISTS (SELECT FROM reactions.entity_type t WHERE t.legacy_table IS NOT NULL AND NOT t.backfilled) THEN 'backfill'
                WHEN EXISTS (\(Self.events(in: "reactions._outbox"))) THEN 'outbox'
                ELSE 'clickhouse' END
            FROM reactions.forgotten_user f WHERE f.state <> 'erased' ORDER BY f.requested_at LIMIT \(limit)
            """)
        var ready: [Int64: Version] = [:]
        var waitsForOutbox = false
        for row in found.rows {
            let user: Int64 = try found.required(row, 0)
            let version = Version(rawValue: try found.required(row, 1))
            let wait: String = try found.required(row, 3)
            if wait == "outbox" { waitsForOutbox = true }
            if wait == "clickhouse" { ready[user] = max(ready[user] ?? version, version) }
            guard found.text(row, 2) != wait else { continue }
            _ = try query(
                "UPDATE reactions.forgotten_user SET waits_for = $3 WHERE user_id = $1::bigint AND version = $2::bigint",
                ["\(user)", "\(version.rawValue)", wait])
        }
        if waitsForOutbox { try askForRotation() }
        pending.ready = ready.sorted { $0.key < $1.key }.map { Tombstone(userID: $0.key, version: $0.value) }
        return pending
    }

    public func place() throws(PostgresError) -> Place {
        let session = try open()
        let found = try session.query(
            """
            SELECT system_identifier, timeline, current_setting('reactions.key_prefix', true) FROM reactions._cluster()
            """)
        return Place(
            types: Array(try PostgresSource.catalog(session).values),
            systemIdentifier: UInt64(bitPattern: try found.required(0, 0, as: Int64.self)),
            timeline: UInt32(truncatingIfNeeded: try found.required(0, 1, as: Int64.self)),
            keyPrefix: found.text(0, 2) ?? "")
    }

    /// Notes how many rows ClickHouse has, before they are deleted; the first time counts.
    public func counted(_ rows: [String: Int64], of tombstone: Tombstone) throws(PostgresError) {
        _ = try query(
            """
            UPDATE reactions.forgotten_user f SET report = (
                SELECT jsonb_object_agg(r.key,
                    jsonb_build_object('clickhouse', coalesce(($3::jsonb ->> r.key)::bigint, 0)) || r.value)
                FROM jsonb_each(f.report) r)
            WHERE f.user_id = $1::bigint AND f.version <= $2::bigint AND f.state <> 'erased'
            """, ["\(tombstone.userID)", "\(tombstone.version.rawValue)", Self.object(rows)])
    }

    /// Nothing of the user is left in ClickHouse, Redis and the outbox.
    public func erased(_ tombstone: Tombstone, maps: [String: Int64]) throws(PostgresError) {
        _ = try query(
            """
            SELECT reactions._erased(f.user_id, f.version, (
                SELECT jsonb_object_agg(r.key, jsonb_build_object('clickhouse', 0) || r.value
                    || jsonb_build_object('maps', coalesce(($3::jsonb ->> r.key)::bigint, 0))) FROM jsonb_each(f.report) r))
            FROM reactions.forgotten_user f
            WHERE f.user_id = $1::bigint AND f.version <= $2::bigint AND f.state <> 'erased'
            """, ["\(tombstone.userID)", "\(tombstone.version.rawValue)", Self.object(maps)])
    }

    /// Of a user's newest tombstone.
    public func reports(of user: Int64) throws(PostgresError) -> [ErasureReport] {
        let found = try query(
            """
            SELECT entity_type, state, waits_for, table_rows, clickhouse_rows, user_maps FROM reactions.forgotten_users
            WHERE user_id = $1::bigint AND version = (
                SELECT max(version) FROM reactions.forgotten_user WHERE user_id = $1::bigint) ORDER BY entity_type
            """, ["\(user)"])
        var reports: [ErasureReport] = []
        for row in found.rows {
            reports.append(
                ErasureReport(
                    entityType: try found.required(row, 0), state: try found.required(row, 1),
                    waitsFor: found.text(row, 2), tableRows: found.value(row, 3), clickHouseRows: found.value(row, 4),
                    userMaps: found.value(row, 5)))
        }
        return reports
    }

    /// Whether an agent leads, without which nothing is erased.
    public func isMirrored() throws(PostgresError) -> Bool {
        try PostgresSource.isLed(open())
    }

    /// The mirror rotates at its next round if the time to do so has come; only for rows in the table that is written to.
    private func askForRotation() throws(PostgresError) {
        let current: Int = try query("SELECT current_outbox FROM reactions._mirror").required(0, 0)
        _ = try query(
            """
            UPDATE reactions._mirror SET rotated_at = '-infinity'
            WHERE current_outbox = \(current) AND rotated_at > '-infinity' AND EXISTS (
                SELECT FROM reactions.forgotten_user f
                WHERE f.state = 'removed' AND EXISTS (\(Self.events(in: "reactions._outbox_\(current)"))))
            """)
    }

    /// What an outbox has of the user of `f`, by its index.
    private static func events(in table: String) -> String {
        """
        SELECT FROM \(table) o WHERE o.type_id = ANY (ARRAY(SELECT t.type_id FROM reactions.entity_type t))
        AND o.user_id = f.user_id AND o.version <= f.version
        """
    }

    /// As JSON; names of entity types are letters, digits and underscores.
    private static func object(_ numbers: [String: Int64]) -> String {
        "{" + numbers.map { "\"\($0.key)\": \($0.value)" }.joined(separator: ", ") + "}"
    }

    private func query(_ sql: String, _ parameters: [String?] = []) throws(PostgresError) -> PostgresResult {
        try open().query(sql, parameters)
    }

    private func open() throws(PostgresError) -> PostgresConnection {
        try connection.usable { () throws(PostgresError) in try settings.openSession("erasure", wakeUp: wakeUp) }
    }
}
