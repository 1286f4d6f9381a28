public import Pipeline
public import ReactionModel

/// Finds the reactions that were written since a transaction id, in two ways that do not depend on each other: by the rows of the table,
/// whatever its triggers are, and by the events that are still in the outbox.
public actor RecentKeys {
    /// Blocks of the table, and events, of one statement.
    private static let rangeBlocks: Int64 = 1024
    private static let events = 10_000

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.recent")
    private let settings: PostgresSettings
    private var connection: PostgresConnection?
    private let table: LegacyTable
    private let type: EntityType
    private let since: UInt64
    private var next: Position = .table(block: 0)

    private enum Position {
        case table(block: Int64)
        case outbox(table: Int, xid: UInt64, version: Int64)
        case end
    }

    public init(settings: PostgresSettings, of table: LegacyTable, _ type: EntityType, since: UInt64) {
        self.settings = settings
        self.table = table
        self.type = type
        self.since = since
    }

    /// How many pieces of the table there are, about.
    public func ranges() throws(PostgresError) -> Int64 {
        try blocks() / Self.rangeBlocks + 1
    }

    /// The reactions of the next piece, which may be none; nil at the end.
    public func piece() throws(PostgresError) -> [MatchKey]? {
        switch next {
        case .end: return nil
        case .table(let block):
            // What was added since the last piece was added by now.
            guard block < (try blocks()) else {
                next = .outbox(table: 0, xid: since, version: 0)
                return []
            }
            next = .table(block: block + Self.rangeBlocks)
            return try rows(from: block)
        case .outbox(let table, let xid, let version):
            return try events(of: table, after: xid, version)
        }
    }

    /// Frozen rows keep their transaction id. One that is older than the ids go around may look recent, and is compared for nothing.
    private func rows(from block: Int64) throws(PostgresError) -> [MatchKey] {
        try Self.keys(
            open().query(
                """
                SELECT \(table.userColumn), \(table.entityColumn) FROM ONLY \(table.name)
                WHERE ctid >= '(\(block),0)' AND ctid < '(\(block + Self.rangeBlocks),0)'
                  AND age(xmin) <= age('\(since)'::xid8::xid)
                """))
    }

    private func events(of table: Int, after xid: UInt64, _ version: Int64) throws(PostgresError) -> [MatchKey] {
        let result = try open().query(
            """
            SELECT user_id, entity_id, type_id = \(type.typeID) AND scope = 'r', xid, version FROM reactions._outbox_\(table)
            WHERE (xid, version) > ('\(xid)'::xid8, \(version)) ORDER BY xid, version LIMIT \(Self.events)
            """)
        if let last = result.rows.last, result.rows.count == Self.events {
            next = .outbox(table: table, xid: try result.required(last, 3), version: try result.required(last, 4))
        } else {
            next = table < 2 ? .outbox(table: table + 1, xid: since, version: 0) : .end
        }
        return try Self.keys(result) { result.isTrue($0, 2) }
    }

    private static func keys(
        _ result: PostgresResult, where isWanted: (Int32) -> Bool = { _ in true }
    ) throws(PostgresError) -> [MatchKey] {
        var keys: [MatchKey] = []
        for row in result.rows where isWanted(row) {
            keys.append(MatchKey(userID: try result.required(row, 0), entityID: try result.required(row, 1)))
        }
        return keys
    }

    private func blocks() throws(PostgresError) -> Int64 {
        try open().query(
            """
            SELECT pg_relation_size(legacy_table) / current_setting('block_size')::bigint
            FROM reactions.entity_type WHERE type_id = \(type.typeID) AND legacy_table IS NOT NULL
            """
        ).required(0, 0)
    }

    private func open() throws(PostgresError) -> PostgresConnection {
        try connection.usable { () throws(PostgresError) in try settings.openSession("match reader") }
    }
}
