public import Pipeline

/// A session that looks at the phases of types, and takes those to their next one that are to leave theirs by themselves.
public actor Phases {
    /// A row of `reactions.readiness`.
    public struct Condition: Sendable, Codable, Equatable {
        public var condition: String
        public var required: String
        public var actual: String
        public var ok: Bool
    }

    public struct Look: Sendable {
        /// By entity type.
        public var phases: [String: String] = [:]
        /// The types with a policy for their phase.
        public var standings: [AutoAdvance.Standing] = []
    }

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.phases")
    private let wakeUp = WakeUp()
    private let settings: PostgresSettings
    private let purpose: String
    private let notice: (@Sendable (String) -> Void)?
    private var connection: PostgresConnection?

    /// - Parameters:
    ///   - purpose: what `reactions.phase_log` says, after `reactiond`, of who changed a phase.
    ///   - notice: told what PostgreSQL says beside its answers.
    public init(
        settings: PostgresSettings, as purpose: String, notice: (@Sendable (String) -> Void)? = nil
    ) {
        self.settings = settings
        self.purpose = purpose
        self.notice = notice
    }

    public func close() {
        connection = nil
    }

    public func look() throws(PostgresError) -> Look {
        let found = try session.queryPrepared(
            """
            SELECT t.entity_type, t.phase, t.auto_advance ? t.phase,
                (t.auto_advance ->> t.phase)::interval <= clock_timestamp() - (
                    SELECT max(l.changed_at) FROM reactions.phase_log l WHERE l.entity_type = t.entity_type AND l.to_phase = t.phase)
            FROM reactions.entity_type t
            """)
        var look = Look()
        for row in found.rows {
            let type = try found.required(row, 0, as: String.self)
            let phase = try found.required(row, 1, as: String.self)
            look.phases[type] = phase
            guard found.isTrue(row, 2) else { continue }
            look.standings.append(.init(entityType: type, phase: phase, isDue: found.isTrue(row, 3)))
        }
        return look
    }

    /// The installed version of the extension; nil if it is not installed.
    public func extensionVersion() throws(PostgresError) -> String? {
        try session.query("SELECT extversion FROM pg_extension WHERE extname = 'pg_reactions'").text(0, 0)
    }

    /// The conditions of a type's next phase; of all types without one.
    public func readiness(_ entityType: String?) throws(PostgresError) -> [(
        entityType: String, conditions: [Condition]
    )] {
        let types = try session.query(
            "SELECT entity_type FROM reactions.entity_type WHERE $1::text IS NULL OR entity_type = $1 ORDER BY type_id",
            [entityType])
        var names: [String] = []
        for row in types.rows { names.append(try types.required(row, 0)) }
        // A type that does not exist is for the function to refuse.
        if let entityType, names.isEmpty { names = [entityType] }
        var answer: [(entityType: String, conditions: [Condition])] = []
        for name in names { answer.append((name, try conditions(name))) }
        return answer
    }

    public func conditions(_ entityType: String) throws(PostgresError) -> [Condition] {
        let found = try session.query(
            "SELECT condition, required, actual, ok FROM reactions.readiness($1)", [entityType])
        var conditions: [Condition] = []
        for row in found.rows {
            conditions.append(
                Condition(
                    condition: try found.required(row, 0), required: found.text(row, 1) ?? "",
                    actual: found.text(row, 2) ?? "", ok: found.isTrue(row, 3)))
        }
        return conditions
    }

    /// From this phase only: a type that somebody else has taken on meanwhile stays where it is.
    public func advance(_ standing: AutoAdvance.Standing) throws(PostgresError) {
        _ = try session.query("CALL reactions._advance_from($1, $2, false)", [standing.entityType, standing.phase])
    }

    public func advance(_ entityType: String, force: Bool) throws(PostgresError) {
        _ = try session.query("CALL reactions.advance($1, $2::boolean)", [entityType, "\(force)"])
    }

    public func rollBack(_ entityType: String) throws(PostgresError) {
        _ = try session.query("CALL reactions.rollback($1)", [entityType])
    }

    private var session: PostgresConnection {
        get throws(PostgresError) {
            try connection.usable { () throws(PostgresError) in
                // Whoever waits for a rollback and is gone is noticed at once.
                let opened = try settings.openSession(purpose, .calls, wakeUp: wakeUp)
                opened.notice = notice
                return opened
            }
        }
    }
}
