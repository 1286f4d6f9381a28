public import Pipeline
public import ReactionModel

/// Looks again at reactions on which table and ClickHouse seemed to be apart: `begin`, then ClickHouse is asked, then `end`.
///
/// From beginning to end nothing leaves the outbox (ACCESS SHARE, and TRUNCATE does not wait), so what the end does not find there above
/// the floor of the beginning was in ClickHouse when it was asked, and nothing newer was. docs/internals.md, "Match", has the argument.
public actor SecondLook {
    public struct Answer: Sendable {
        /// Flags of those that the table has.
        public var flags: [MatchKey: Int32] = [:]
        /// Events of these may not be in ClickHouse yet.
        public var moving: Set<MatchKey> = []
        /// The table refused to take these back.
        public var refused: Set<MatchKey> = []
    }

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.look")
    private let settings: PostgresSettings
    private var connection: PostgresConnection?
    private var floor: Int64 = 0

    public init(settings: PostgresSettings) {
        self.settings = settings
    }

    public func begin() throws(PostgresError) {
        let connection = try open()
        let results = try connection.execute(
            """
            BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;
            LOCK TABLE reactions._outbox_0, reactions._outbox_1, reactions._outbox_2 IN ACCESS SHARE MODE;
            SELECT coalesce(max(floor), 0) FROM reactions._mirror
            """)
        guard let result = results.last else { return }
        floor = try result.required(0, 0)
    }

    /// The table first and the outbox second: an event of what the table shows is then seen.
    public func end(
        _ keys: [MatchKey], of table: LegacyTable, _ type: EntityType
    ) throws(PostgresError) -> Answer {
        let connection = try self.connection.usable
        do throws(PostgresError) {
            var answer = Answer()
            let list = """
                unnest('{\(keys.map { "\($0.userID)" }.joined(separator: ","))}'::bigint[], \
                '{\(keys.map { "\($0.entityID)" }.joined(separator: ","))}'::bigint[]) k (user_id, entity_id)
                """
            answer.flags = try flags(list, of: table, type, connection)
            // Scopes other than a reaction leave out the user, the entity or both, as 0.
            answer.moving = try Self.keys(
                """
                SELECT k.user_id, k.entity_id FROM \(list) WHERE EXISTS (
                    SELECT FROM reactions._outbox o WHERE o.type_id = \(type.typeID)
                      AND o.user_id = ANY (ARRAY[k.user_id, 0]) AND o.entity_id = ANY (ARRAY[k.entity_id, 0])
                      AND o.version > \(floor))
                """, connection)
            answer.refused = try Self.keys(
                """
                SELECT k.user_id, k.entity_id FROM \(list) WHERE EXISTS (
                    SELECT FROM reactions.write_back_refused r WHERE r.type_id = \(type.typeID)
                      AND r.user_id = k.user_id AND r.entity_id = k.entity_id)
                """, connection)
            _ = try connection.execute("COMMIT")
            return answer
        } catch {
            close()
            throw error
        }
    }

    /// Gives up what was begun.
    public func close() {
        connection = nil
    }

    private func flags(
        _ list: String, of table: LegacyTable, _ type: EntityType, _ connection: PostgresConnection
    ) throws(PostgresError) -> [MatchKey: Int32] {
        var table = table
        table.createdColumn = nil
        try connection.beginCopy(
            """
            COPY (SELECT \(LegacyRowDecoder.columns(of: table, alias: "t")) FROM \(list) JOIN ONLY \(table.name) t \
            ON t.\(table.userColumn) = k.user_id AND t.\(table.entityColumn) = k.entity_id) TO STDOUT (FORMAT binary)
            """)
        var decoder = LegacyRowDecoder(table, type)
        var flags: [MatchKey: Int32] = [:]
        _ = try connection.continueCopy { bytes throws(PostgresError) in
            if let row = try decoder.decode(bytes) {
                flags[MatchKey(userID: row.userID, entityID: row.entityID), default: 0] |=
                    type.kinds[Int(row.kind)].flag
            }
            return true
        }
        return flags
    }

    private static func keys(_ sql: String, _ connection: PostgresConnection) throws(PostgresError) -> Set<MatchKey> {
        let result = try connection.query(sql)
        var keys: Set<MatchKey> = []
        for row in result.rows {
            keys.insert(MatchKey(userID: try result.required(row, 0), entityID: try result.required(row, 1)))
        }
        return keys
    }

    private func open() throws(PostgresError) -> PostgresConnection {
        try connection.usable { () throws(PostgresError) in try settings.openSession("match reader") }
    }
}
