/// A table as it is in one snapshot: its rows by COPY, what it is made of, and its checksum, which PostgreSQL computes by other means.
public actor TableSnapshot {
    public struct Description: Sendable {
        /// Names this archive.
        public var identifier: String
        public var snapshotTime: String
        /// `reactions._table_description`.
        public var table: String
        public var columns: [String]
        public var blocks: Int64
        /// About so many.
        public var rows: Int64
    }

    /// 64 MiB of table: a statement of seconds.
    private static let sliceBlocks: Int64 = 8192

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.snapshot")
    private let settings: PostgresSettings
    private let table: String
    private var connection: PostgresConnection?
    private var columns = ""
    private var checksum = ""
    private var blocks: Int64 = 0

    /// - Parameter table: qualified and quoted.
    public init(settings: PostgresSettings, table: String) {
        self.settings = settings
        self.table = table
    }

    /// Takes the snapshot, which stays until `end`.
    public func begin() throws(PostgresError) -> Description {
        let opened = try settings.openSession("archive reader", .archive)
        // The lock first: the snapshot then sees every commit that the lock waited for.
        _ = try opened.execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE \(table) IN ACCESS SHARE MODE")
        connection = opened
        let found = try opened.query(
            """
            SELECT gen_random_uuid(), to_char(clock_timestamp(), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                   reactions._table_description($1::regclass), c.list, c.checksum, array_to_json(c.names),
                   pg_relation_size($1::regclass) / current_setting('block_size')::bigint,
                   greatest((SELECT reltuples::bigint FROM pg_class WHERE oid = $1::regclass), 0)
            FROM reactions._archived_columns($1::regclass) c
            """, [table])
        columns = try found.required(0, 3)
        checksum = try found.required(0, 4)
        blocks = try found.required(0, 6)
        let names = try opened.query("SELECT json_array_elements_text($1::json)", [found.text(0, 5)])
        return Description(
            identifier: try found.required(0, 0), snapshotTime: try found.required(0, 1),
            table: try found.required(0, 2),
            columns: names.rows.compactMap { names.text($0, 0) }, blocks: blocks, rows: try found.required(0, 7))
    }

    public func beginRows() throws(PostgresError) {
        // Every value is quoted: what is not is NULL, and a line is the same text as in the checksum.
        try connection.usable.beginCopy("COPY \(table) (\(columns)) TO STDOUT (FORMAT csv, FORCE_QUOTE *)")
    }

    /// At most `limit` rows; the last ones have `isLast`.
    public func nextRows(limit: Int64) throws(PostgresError) -> (rows: CopiedRows, isLast: Bool) {
        try connection.opened.copiedRows(limit: limit)
    }

    /// Rows and checksum of a slice of the table; `sum` is an integer of any size.
    ///
    /// - Parameter slice: from 0; nil is returned behind the last.
    public func checksum(ofSlice slice: Int64) throws(PostgresError) -> (rows: Int64, sum: String, blocks: Int64)? {
        let first = slice * Self.sliceBlocks
        guard first < blocks || slice == 0 else { return nil }
        let result = try connection.usable.query(
            """
            SELECT count(*), \(checksum) FROM ONLY \(table)
            WHERE ctid >= '(\(first),0)' AND ctid < '(\(first + Self.sliceBlocks),0)'
            """)
        return (try result.required(0, 0), try result.required(0, 1), min(first + Self.sliceBlocks, blocks))
    }

    public func end() throws(PostgresError) {
        _ = try connection.usable.execute("COMMIT")
        connection = nil
    }
}
