public import Pipeline
public import ReactionModel

/// What a match compares with ClickHouse.
public struct MatchTarget: Sendable {
    public var type: EntityType
    public var table: LegacyTable
    /// The table takes no more writes: it is compared with what was true up to this version. Nil while it is the truth.
    public var asOf: Version?
    /// Of the newest backfill; another one at the end means that ClickHouse was made to agree meanwhile.
    public var backfillVersion: Int64?
    /// Transactions below it had ended when the last match began; nil if there was none.
    public var lastSeen: UInt64?
}

/// The session of one match: its lock, its row of `reactions.match_run`, its differences, its repairs.
public actor MatchSource {
    public enum Scope: String, Sendable {
        case full
        case recent
    }

    /// The type cannot be matched, in the operator's words.
    public struct Problem: Error, CustomStringConvertible {
        public var description: String

        public init(description: String) {
            self.description = description
        }
    }

    /// Between two attempts at a match that failed.
    public static let retryInterval: Duration = .seconds(600)
    /// How long runs are kept.
    static let retention = "30 days"
    /// Reactions repaired in one transaction, which keeps every writer out.
    public static let repairedAtOnce = 100
    /// Object of the advisory lock; 1 is the leader's, 2 the bell's, 3 the backfill's.
    private static let lockObject = 4

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.match")
    private let settings: PostgresSettings
    private let purpose: String
    private var connection: PostgresConnection?

    /// - Parameter purpose: of the session, for `pg_stat_activity`.
    public init(settings: PostgresSettings, as purpose: String = "match") {
        self.settings = settings
        self.purpose = purpose
    }

    public func open() throws(PostgresError) {
        connection = nil
        connection = try settings.openSession(purpose)
    }

    public func close() {
        connection = nil
    }

    /// Tries for the lock of the one that matches, which the session then holds until it ends.
    public func takeLock() throws(PostgresError) -> Bool {
        try session.query("SELECT pg_try_advisory_lock(\(PostgresSource.lockClass), \(Self.lockObject))").isTrue(0, 0)
    }

    /// The same, waiting for another match to end. The agent's are mostly short.
    public func takeLock(within patience: Duration) async throws -> Bool {
        let deadline = ContinuousClock.now + patience
        while true {
            if try takeLock() { return true }
            guard .now < deadline else { return false }
            try await Task.sleep(for: .milliseconds(250))
        }
    }

    public func releaseLock() throws(PostgresError) {
        _ = try session.query("SELECT pg_advisory_unlock(\(PostgresSource.lockClass), \(Self.lockObject))")
    }

    /// The installed version of the extension; nil if it is not installed.
    public func extensionVersion() throws(PostgresError) -> String? {
        try session.query("SELECT extversion FROM pg_extension WHERE extname = 'pg_reactions'").text(0, 0)
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

    /// Types that have a table.
    /// - Parameter backfilled: only those that can be matched now; the others are matched when they are sealed.
    public func attached(backfilled: Bool = false) throws(PostgresError) -> [String] {
        let result = try session.query(
            """
            SELECT entity_type FROM reactions.entity_type WHERE legacy_table IS NOT NULL AND (backfilled OR NOT $1::boolean)
            ORDER BY type_id
            """, ["\(backfilled)"])
        return result.rows.compactMap { result.text($0, 0) }
    }

    public func target(_ entityType: String) throws -> MatchTarget {
        let session = try session
        let result = try session.query(
            """
            SELECT t.type_id, t.legacy_table IS NOT NULL, t.backfilled, t.stop_version,
                   (SELECT max(b.version) FROM reactions._backfill b WHERE b.type_id = t.type_id),
                   (SELECT m.seen_xid FROM reactions.match_run m WHERE m.type_id = t.type_id AND m.finished_at IS NOT NULL
                    ORDER BY m.match_run_id DESC LIMIT 1)
            FROM reactions.entity_type t WHERE t.entity_type = $1
            """, [entityType])
        guard !result.rows.isEmpty else { throw Problem(description: "entity type \(entityType) does not exist") }
        let typeID = try result.required(0, 0, as: Int16.self)
        guard result.isTrue(0, 1), let type = try PostgresSource.catalog(session)[typeID],
            let table = try PostgresSource.legacyTable(of: typeID, session)
        else { throw Problem(description: "entity type \(entityType) has no table to be matched") }
        guard result.isTrue(0, 2) else {
            throw Problem(
                description: "entity type \(entityType) is not backfilled yet: reactiond backfill shows how far it is")
        }
        return MatchTarget(
            type: type, table: table, asOf: result.value(0, 3).map(Version.init(rawValue:)),
            backfillVersion: result.value(0, 4), lastSeen: result.value(0, 5))
    }

    // MARK: What is to be done

    /// Looks whether capture is what it was, orders a full match if it is not, and tells what has changed.
    public func watchCapture() throws(PostgresError) -> [(entityType: String, problem: String)] {
        let result = try session.query("SELECT entity_type, problem FROM reactions._watch_capture()")
        var altered: [(entityType: String, problem: String)] = []
        for row in result.rows { altered.append((try result.required(row, 0), try result.required(row, 1))) }
        return altered
    }

    /// Why a full match is wanted; nil if it is not.
    public func wish() throws(PostgresError) -> String? {
        try session.query("SELECT max(match_wanted) FROM reactions._mirror").text(0, 0)
    }

    /// A full match of every type, begun after the wish was read, was clean. What has been wished for since is in other words.
    public func fulfil(_ wish: String) throws(PostgresError) {
        _ = try session.query("UPDATE reactions._mirror SET match_wanted = NULL WHERE match_wanted = $1", [wish])
    }

    /// Matches that are due: of types whose last one is older than the interval, or older than their backfill, and was not tried just now.
    /// - Parameter interval: nil for never.
    public func due(_ scope: Scope, every interval: Duration?) throws(PostgresError) -> [String] {
        guard let interval else { return [] }
        let seconds = Double(interval.components.seconds)
        let result = try session.queryPrepared(
            """
            SELECT t.entity_type FROM reactions.entity_type t
            LEFT JOIN LATERAL (
                SELECT max(m.started_at) FILTER (WHERE m.finished_at IS NOT NULL) AS ended, max(m.started_at) AS begun
                FROM reactions.match_run m WHERE m.type_id = t.type_id AND (m.scope = $1 OR m.scope = 'full')
                  AND m.started_at >= coalesce(
                      (SELECT max(b.sealed_at) FROM reactions._backfill b WHERE b.type_id = t.type_id), '-infinity')) m ON true
            WHERE t.legacy_table IS NOT NULL AND t.backfilled
              AND ($1 = 'full' OR t.phase IN ('attached', 'dual_read', 'switch_reads') AND m.ended IS NOT NULL)
              AND coalesce(m.ended < clock_timestamp() - $2::float8 * interval '1 s', true)
              AND coalesce(m.begun < clock_timestamp() - $3::float8 * interval '1 s', true)
            ORDER BY t.type_id
            """, [scope.rawValue, "\(seconds)", "\(min(seconds, Double(Self.retryInterval.components.seconds)))"])
        return result.rows.compactMap { result.text($0, 0) }
    }

    // MARK: The run

    /// A run of a type that has a table.
    public func begin(_ entityType: String, _ scope: Scope) throws -> Int64 {
        let session = try session
        // The newest full run stays, with what came after it: readiness and alerts tell of them.
        _ = try session.query(
            """
            WITH old AS (
                DELETE FROM reactions.match_run m
                WHERE m.started_at < clock_timestamp() - interval '\(Self.retention)'
                  AND m.match_run_id < coalesce(
                      (SELECT max(n.match_run_id) FROM reactions.match_run n
                       WHERE n.type_id = m.type_id AND n.scope = 'full' AND n.finished_at IS NOT NULL), m.match_run_id + 1)
                RETURNING m.match_run_id
            )
            DELETE FROM reactions.difference d USING old WHERE d.match_run_id = old.match_run_id
            """)
        let begun = try session.query(
            """
            INSERT INTO reactions.match_run (type_id, scope)
            SELECT type_id, $2 FROM reactions.entity_type WHERE entity_type = $1 RETURNING match_run_id
            """, [entityType, scope.rawValue])
        guard let run = begun.value(0, 0, as: Int64.self) else {
            throw Problem(description: "entity type \(entityType) does not exist")
        }
        return run
    }

    /// - Parameter expected: reactions to be compared, about.
    public func planned(_ run: Int64, _ target: MatchTarget, expected: Int64) throws(PostgresError) {
        _ = try session.query(
            "UPDATE reactions.match_run SET expected = \(expected), as_of = $1::bigint WHERE match_run_id = \(run)",
            [target.asOf.map { "\($0.rawValue)" }])
    }

    /// Also tells that the lock is still held.
    public func progressed(_ run: Int64, compared: Int64) throws(PostgresError) {
        _ = try session.query("UPDATE reactions.match_run SET compared = \(compared) WHERE match_run_id = \(run)")
    }

    public func store(_ differences: [Difference], of run: Int64) throws(PostgresError) {
        guard !differences.isEmpty else { return }
        func list(_ value: (Difference) -> some CustomStringConvertible) -> String {
            "{\(differences.map { "\(value($0))" }.joined(separator: ","))}"
        }
        _ = try session.query(
            """
            INSERT INTO reactions.difference (match_run_id, user_id, entity_id, in_table, in_clickhouse, class)
            SELECT \(run), d.* FROM unnest($1::bigint[], $2::bigint[], $3::integer[], $4::integer[], $5::text[]) d
            """,
            [
                list(\.key.userID), list(\.key.entityID), list(\.inTable), list(\.inClickHouse),
                list(\.reason.rawValue),
            ])
    }

    /// Throws if what was compared is no longer what it was.
    public func finish(
        _ run: Int64, _ target: MatchTarget, compared: Int64, counts: [DifferenceClass: Int64], inFlight: Int64
    ) throws {
        let session = try session
        let classes = counts.filter { $0.value > 0 }.map { "\"\($0.key.rawValue)\":\($0.value)" }.joined(separator: ",")
        let faults = counts.reduce(0) { $0 + ($1.key.isFault ? $1.value : 0) }
        let finished = try session.query(
            """
            UPDATE reactions.match_run m
            SET finished_at = clock_timestamp(), compared = \(compared), differences = \(faults), in_flight = \(inFlight),
                classes = $1::jsonb
            FROM reactions.entity_type t
            WHERE m.match_run_id = \(run) AND t.type_id = m.type_id AND t.backfilled AND t.legacy_table IS NOT NULL
              AND (SELECT max(b.version) FROM reactions._backfill b WHERE b.type_id = t.type_id) IS NOT DISTINCT FROM $2::bigint
            RETURNING m.match_run_id
            """, ["{\(classes)}", target.backfillVersion.map { "\($0)" }])
        guard !finished.rows.isEmpty else {
            throw Problem(
                description:
                    "the table of entity type \(target.type.name) was detached or is being backfilled anew: match it again afterwards"
            )
        }
    }

    /// Keeps what ended a run where the operator finds it.
    public func failed(_ run: Int64, _ error: String) throws(PostgresError) {
        _ = try session.query(
            "UPDATE reactions.match_run SET error = $1 WHERE match_run_id = \(run) AND finished_at IS NULL", [error])
    }

    // MARK: Repair

    /// Writes an event with the table's flags for each of the reactions, at most `repairedAtOnce`.
    public func repair(_ keys: [MatchKey], _ target: MatchTarget, of run: Int64) throws(PostgresError) {
        let users = "{\(keys.map { "\($0.userID)" }.joined(separator: ","))}"
        let entities = "{\(keys.map { "\($0.entityID)" }.joined(separator: ","))}"
        _ = try session.query(
            "SELECT reactions._repair($1, $2::bigint[], $3::bigint[], \(run))", [target.type.name, users, entities])
    }

    func query(_ sql: String, _ parameters: [String?] = []) throws(PostgresError) -> PostgresResult {
        try session.query(sql, parameters)
    }

    var session: PostgresConnection {
        get throws(PostgresError) { try connection.usable }
    }
}
