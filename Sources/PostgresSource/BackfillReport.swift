/// What `reactiond backfill` shows of one type: a row of the view `reactions.backfill`.
public struct BackfillReport: Sendable, Codable, Equatable {
    public var entityType: String
    public var state: String
    public var blocks: Int64
    public var blocksRead: Int64
    public var rows: Int64
    public var skippedRows: Int64
    public var error: String?
    /// Changes when a backfill is begun anew.
    public var version: Int64

    public init(
        entityType: String, state: String, blocks: Int64, blocksRead: Int64, rows: Int64, skippedRows: Int64,
        error: String?, version: Int64
    ) {
        self.entityType = entityType
        self.state = state
        self.blocks = blocks
        self.blocksRead = blocksRead
        self.rows = rows
        self.skippedRows = skippedRows
        self.error = error
        self.version = version
    }

    public var isSealed: Bool { state == "sealed" }
    /// Nothing is left to be done.
    public var isOver: Bool { isSealed || state == "given up" }
}

extension BackfillSource {
    public func reports() throws(PostgresError) -> [BackfillReport] {
        let result = try query(
            """
            SELECT entity_type, state, blocks, blocks_read, rows, skipped_rows, error, version
            FROM reactions.backfill ORDER BY entity_type
            """)
        var reports: [BackfillReport] = []
        for row in result.rows {
            reports.append(
                BackfillReport(
                    entityType: try result.required(row, 0), state: try result.required(row, 1),
                    blocks: try result.required(row, 2), blocksRead: try result.required(row, 3),
                    rows: try result.required(row, 4), skippedRows: try result.required(row, 5),
                    error: result.text(row, 6), version: try result.required(row, 7)))
        }
        return reports
    }

    /// Asks whoever may be at work to do what `backfill.automatic` leaves undone: of one type, or of all.
    ///
    /// A row that the mirror is about to write is left alone, as in `failed`; it was asked for, or nobody would have read the table.
    public func request(_ entityType: String?) throws(PostgresError) {
        _ = try query(
            """
            UPDATE reactions._backfill b SET requested_at = clock_timestamp() FROM reactions.entity_type t
            WHERE t.type_id = b.type_id AND b.sealed_at IS NULL AND b.read_at IS NULL AND b.requested_at IS NULL
              AND ($1::text IS NULL OR t.entity_type = $1)
            """, [entityType])
    }

    /// Whether an agent mirrors, without which nothing is sealed.
    public func isMirrored() throws(PostgresError) -> Bool {
        try PostgresSource.isLed(session)
    }

    /// The installed version of the extension; nil if it is not installed.
    public func extensionVersion() throws(PostgresError) -> String? {
        try query("SELECT extversion FROM pg_extension WHERE extname = 'pg_reactions'").text(0, 0)
    }

    func query(_ sql: String, _ parameters: [String?] = []) throws(PostgresError) -> PostgresResult {
        try session.query(sql, parameters)
    }
}
