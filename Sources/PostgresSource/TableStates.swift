public import Pipeline
public import ReactionModel

/// Reads the reactions of an attached table in the order of (user, entity), slice by slice, in a session of its own. A slice is one
/// COPY, and so one snapshot, which goes on from piece to piece.
public actor TableStates {
    /// Rows of a piece.
    private static let pieceRows = 20_000
    /// The planner chooses between an index and a sort, which may need this much memory before it goes to disk.
    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.states")
    private let settings: PostgresSettings
    private var connection: PostgresConnection?
    private var copy: Copy?

    private struct Copy {
        let kinds: [Kind]
        var decoder: LegacyRowDecoder
        /// The reaction whose rows may go on in the next piece.
        var open: TableState?
        var rows: Int64 = 0
    }

    public init(settings: PostgresSettings) {
        self.settings = settings
    }

    public func begin(
        _ users: ClosedRange<Int64>, of table: LegacyTable, _ type: EntityType
    ) throws(PostgresError) {
        let connection = try open()
        var table = table
        table.createdColumn = nil
        try connection.beginCopy(
            """
            COPY (SELECT \(LegacyRowDecoder.columns(of: table)) FROM ONLY \(table.name) \
            WHERE \(table.userColumn) >= '\(users.lowerBound)'::bigint AND \(table.userColumn) <= '\(users.upperBound)'::bigint \
            ORDER BY 1, 2) TO STDOUT (FORMAT binary)
            """)
        copy = Copy(kinds: type.kinds, decoder: LegacyRowDecoder(table, type))
    }

    /// The next reactions of the slice, and the rows that they were read from; none at its end.
    public func next() throws(PostgresError) -> (states: [TableState], rows: Int64) {
        guard var copy, let connection else { return ([], 0) }
        self.copy = nil
        var states: [TableState] = []
        var rows: Int64 = 0
        do throws(PostgresError) {
            let isAtEnd = try connection.continueCopy { bytes throws(PostgresError) in
                guard let row = try copy.decoder.decode(bytes) else { return true }
                rows += 1
                let key = MatchKey(userID: row.userID, entityID: row.entityID)
                if let open = copy.open, open.key != key {
                    states.append(open)
                    copy.open = nil
                }
                copy.open = TableState(
                    key: key, flags: (copy.open?.flags ?? 0) | copy.kinds[Int(row.kind)].flag)
                return states.count < Self.pieceRows
            }
            if isAtEnd {
                if let open = copy.open { states.append(open) }
            } else {
                self.copy = copy
            }
        } catch {
            self.connection = nil
            throw error
        }
        return (states, rows)
    }

    /// Ends what is under way.
    public func close() {
        copy = nil
        connection = nil
    }

    private func open() throws(PostgresError) -> PostgresConnection {
        if copy != nil { close() }
        return try connection.usable { () throws(PostgresError) in try settings.openSession("match reader", .table) }
    }
}
