/// The session that makes a table anew: each step is a transaction of its own, except that a load is one per file.
public actor RestoreSession {
    public struct Step: Sendable {
        public var name: String
        public var statement: String
        /// Returns the rows that it removes.
        public var removesRows: Bool
    }

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.restore")
    private let settings: PostgresSettings
    private var connection: PostgresConnection?

    public init(settings: PostgresSettings) {
        self.settings = settings
    }

    public func open() throws(PostgresError) {
        connection = nil
        connection = try settings.openSession("restore", .archive)
    }

    /// Makes the table without rows and indexes, and returns its name, qualified and quoted. What an interrupted restore of the same
    /// archive has left is dropped.
    public func makeTable(_ description: String, archive: String, name: String) throws(PostgresError) -> String {
        try connection.usable.query("SELECT reactions._restore_table($1::jsonb, $2, $3)", [description, archive, name])
            .required(
                0, 0)
    }

    public func beginLoad(_ table: String) throws(PostgresError) {
        let columns = try connection.usable.query("SELECT list FROM reactions._archived_columns($1::regclass)", [table])
        try connection.usable.beginCopy(
            "COPY \(table) (\(try columns.required(0, 0, as: String.self))) FROM STDIN (FORMAT csv)")
    }

    public func load(_ lines: [UInt8]) throws(PostgresError) {
        try connection.opened.continueCopyIn(lines)
    }

    public func endLoad() throws(PostgresError) {
        try connection.opened.endCopyIn()
    }

    public func steps(_ description: String, _ table: String) throws(PostgresError) -> [Step] {
        let result = try connection.usable.query(
            "SELECT step, statement, removes_rows FROM reactions._restore_steps($1::jsonb, $2::regclass)",
            [description, table])
        var steps: [Step] = []
        for row in result.rows {
            steps.append(
                Step(
                    name: try result.required(row, 0), statement: try result.required(row, 1),
                    removesRows: result.isTrue(row, 2)))
        }
        return steps
    }

    public func run(_ step: Step) throws(PostgresError) {
        _ = try connection.usable.query(step.statement)
    }

    /// Runs a step that returns the rows it removes; they come by `nextRemoved`, and are removed when the last has come.
    public func beginRemoving(_ step: Step) throws(PostgresError) {
        try connection.usable.beginCopy("COPY (\(step.statement)) TO STDOUT (FORMAT csv, FORCE_QUOTE *)")
    }

    public func nextRemoved() throws(PostgresError) -> (rows: CopiedRows, isLast: Bool) {
        try connection.opened.copiedRows(limit: .max)
    }

    /// The table, which is loaded, gets what else it had, and becomes the type's. Returns what it could not get.
    public func attach(_ entityType: String, _ description: String, _ table: String) throws(PostgresError) -> [String] {
        _ = try connection.usable.execute("BEGIN")
        do throws(PostgresError) {
            let lacking = try connection.usable.query(
                "SELECT * FROM reactions._restore_properties($1::jsonb, $2::regclass)", [description, table])
            _ = try connection.usable.query(
                """
                SELECT reactions._attach_restored($1, c.oid::regclass, c.relname) FROM pg_class c WHERE c.oid = $2::regclass
                """, [entityType, table])
            _ = try connection.usable.execute("COMMIT")
            return lacking.rows.compactMap { lacking.text($0, 0) }
        } catch {
            _ = try? connection.usable.execute("ROLLBACK")
            throw error
        }
    }

    /// The same for a table that was never gone: it gets its name back.
    public func attach(_ entityType: String, kept table: String, name: String) throws(PostgresError) {
        _ = try connection.usable.query(
            "SELECT reactions._attach_restored($1, $2::regclass, $3)", [entityType, table, name])
    }

    /// The last step, durable on return. Triggers come first, in a transaction of their own: what they lock, writers have before the
    /// fence.
    public func flip(_ entityType: String, report: String) throws(PostgresError) {
        _ = try connection.usable.query("SELECT reactions.prepare_stop_writes($1)", [entityType])
        _ = try connection.usable.query(
            "SELECT reactions._flip($1, 'archived', 'stop_writes', false, $2::jsonb)", [entityType, report])
    }
}
