/// A type as `reactiond archive` and `reactiond restore` find it.
public struct ArchivedType: Sendable {
    public var phase: String
    /// Qualified and quoted; nil if it was dropped.
    public var table: String?
    public var tableName: String?
    /// Row of `reactions.entity_type` and the type's kinds, as JSON.
    public var description: String
    /// Of the last time that the type was archived: what the phase log keeps, as JSON.
    public var lastArchive: String?
    /// Up to it every event was a change of the table.
    public var stopVersion: Int64?
}

/// The session that decides: it holds the table of a type still while it is archived, and changes the phase.
///
/// Its lock (SHARE UPDATE EXCLUSIVE) lets deletes of foreign keys through, and keeps out whoever would disable the triggers that refuse
/// every other write: so between the snapshot and the end rows can go, and none can come.
public actor ArchiveSession {
    private static let captureTriggers = 6

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.archive")
    private let settings: PostgresSettings
    private var connection: PostgresConnection?

    public init(settings: PostgresSettings) {
        self.settings = settings
    }

    public func open() throws(PostgresError) {
        connection = nil
        connection = try settings.openSession("archive", .archive)
    }

    /// The installed version of the extension; nil if it is not installed.
    public func extensionVersion() throws(PostgresError) -> String? {
        try connection.usable.query("SELECT extversion FROM pg_extension WHERE extname = 'pg_reactions'").text(0, 0)
    }

    public func type(_ name: String) throws(PostgresError) -> ArchivedType {
        let result = try connection.usable.query(
            """
            SELECT t.phase, c.oid::regclass, c.relname, t.stop_version,
                   to_jsonb(t) - 'legacy_table' || jsonb_build_object('kinds', (
                       SELECT jsonb_object_agg(k.kind, k.flag) FROM reactions.kind k WHERE k.type_id = t.type_id)),
                   (SELECT l.readiness FROM reactions.phase_log l WHERE l.entity_type = t.entity_type AND l.to_phase = 'archived'
                    ORDER BY l.phase_log_id DESC LIMIT 1)
            FROM reactions.entity_type t LEFT JOIN pg_class c ON c.oid = t.legacy_table WHERE t.entity_type = $1
            """, [name])
        guard !result.rows.isEmpty else {
            throw PostgresError(disposition: .stop, sqlState: "42704", message: "entity type \(name) does not exist")
        }
        return ArchivedType(
            phase: try result.required(0, 0), table: result.text(0, 1), tableName: result.text(0, 2),
            description: try result.required(0, 4), lastArchive: result.text(0, 5), stopVersion: result.value(0, 3))
    }

    // MARK: Archiving

    /// Begins the transaction that ends with the new phase. Nil if the table is held still, else what is in the way.
    public func hold(_ table: String) throws(PostgresError) -> String? {
        _ = try connection.usable.execute("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '10s'")
        do throws(PostgresError) {
            _ = try connection.usable.execute(
                "LOCK TABLE \(table) IN SHARE UPDATE EXCLUSIVE MODE; SET LOCAL lock_timeout = 0")
        } catch {
            guard error.sqlState == "55P03" else { throw error }
            return "table \(table) is locked by another archive, or by maintenance of it: try again later"
        }
        // Behind the lock: whoever disabled a trigger, or wrote while one was, is through.
        let triggers = try connection.usable.query(
            """
            SELECT count(*) FILTER (WHERE tgenabled = 'A') FROM pg_trigger
            WHERE tgrelid = $1::regclass AND tgname LIKE 'reactions\\_capture\\_%' AND NOT tgisinternal
            """, [table])
        guard triggers.value(0, 0) == Self.captureTriggers else {
            return
                "not every capture trigger of table \(table) is enabled, so it may be written: reactions.doctor() says more"
        }
        return nil
    }

    /// What still depends on the table, and what to do about it.
    public func obstacles(
        _ entityType: String, disposition: String
    ) throws(PostgresError) -> [(obstacle: String, hint: String)] {
        let result = try connection.usable.query(
            """
            SELECT o.obstacle, o.hint FROM reactions.entity_type t, reactions._archive_obstacles(t.type_id, $2) o WHERE t.entity_type = $1
            """, [entityType, disposition])
        return result.rows.map { (result.text($0, 0) ?? "", result.text($0, 1) ?? "") }
    }

    /// Publications that take a table along without naming it.
    public func embracingPublications(_ table: String) throws(PostgresError) -> [String] {
        let result = try connection.usable.query(
            """
            SELECT p.pubname FROM pg_publication p JOIN pg_class c ON c.oid = $1::regclass
            WHERE p.puballtables OR EXISTS (
                SELECT FROM pg_publication_namespace n WHERE n.pnpubid = p.oid AND n.pnnspid = c.relnamespace)
            ORDER BY p.pubname
            """, [table])
        return result.rows.compactMap { result.text($0, 0) }
    }

    public func count(_ table: String) throws(PostgresError) -> Int64 {
        try connection.usable.query("SELECT count(*) FROM ONLY \(table)").required(0, 0)
    }

    /// The conditions of readiness, as JSON, and those that are not fulfilled.
    public func readiness(_ entityType: String) throws(PostgresError) -> (all: String, missing: [String]) {
        let result = try connection.usable.query(
            """
            SELECT coalesce(jsonb_agg(to_jsonb(r)), '[]'),
                   array_to_json(coalesce(array_agg(format('%s: required %s, actual %s', condition, required, actual))
                       FILTER (WHERE NOT ok), '{}'))
            FROM reactions.readiness($1) r
            """, [entityType])
        let missing = try connection.usable.query("SELECT json_array_elements_text($1::json)", [result.text(0, 1)])
        return (try result.required(0, 0), missing.rows.compactMap { missing.text($0, 0) })
    }

    /// The last step, durable on return: returns the table's new name, nil if it is gone or keeps its own.
    ///
    /// - Parameter stopVersion: of the table that was archived.
    public func archive(
        _ entityType: String, stopVersion: Int64, disposition: String, report: String
    ) throws(PostgresError) -> String? {
        let result = try connection.usable.query(
            "SELECT reactions._archive_table($1, $2::bigint, $3, $4::jsonb)",
            [entityType, "\(stopVersion)", disposition, report])
        _ = try connection.usable.execute("COMMIT")
        return result.text(0, 0)
    }

    /// Users whose rows an archive may still have, and a restored table must not: they were forgotten after the table was frozen. What
    /// they have reacted since is written back from ClickHouse.
    public func forgottenUsers(_ entityType: String) throws(PostgresError) -> Set<Int64> {
        let result = try connection.usable.query(
            """
            SELECT DISTINCT f.user_id FROM reactions.forgotten_user f, reactions.entity_type t
            WHERE t.entity_type = $1 AND f.version > t.stop_version
            """, [entityType])
        var users: Set<Int64> = []
        for row in result.rows { users.insert(try result.required(row, 0)) }
        return users
    }
}

extension PostgresSettings {
    /// For statements over a whole table, which take as long as they take; a dead server is noticed by TCP.
    public var patient: PostgresSettings {
        var patient = self
        patient.timeout = max(timeout, .seconds(7 * 86_400))
        return patient
    }
}
