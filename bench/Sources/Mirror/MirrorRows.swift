import TestSupport

/// Counts and checksums of the rows that the three tables have to hold, reckoned by PostgreSQL from the outbox. The checksum of a row
/// takes in every column of it but batch and part, and the sum of them does not depend on their order.
struct MirrorRows {
    static let tables = ["reactionsByEntity", "reactionDeltas", "entityMetricEvents"]

    private let expected: [[String]]
    private let floor: Int64

    private static let eventSum = """
        sum((%entity * 1000003 + %user * 10007 + %version % 1000000007 * 31 + %set * 101 + %clear * 103 + %seconds) % 2147483647)
        """
    private static let changeSum = """
        sum((%entity * 1000003 + %user * 10007 + %version % 1000000007 * 31 + %flag * 101 + %value * 103 + %seconds) % 2147483647)
        """
    private static let deltaSum = "sum((%entity * 1000003 + %flag * 10007 + %delta * 31) % 2147483647)"

    private static func text(_ template: String, _ names: [String: String]) -> String {
        names.reduce(template) { $0.replacing("%" + $1.key, with: $1.value) }
    }

    private static let outboxColumns = [
        "entity": "entity_id", "user": "user_id", "version": "version", "set": "set_mask",
        "clear": "(clear_mask & ~set_mask)", "seconds": "\(seconds)", "flag": "flag", "value": "\(value)",
    ]
    private static let clickHouseColumns = [
        "entity": "entityId", "user": "userId", "version": "version", "set": "setMask", "clear": "clearMask",
        "seconds": "toInt64(toUInt32(createdAt))", "flag": flag, "value": "metricValue", "delta": "delta",
    ]
    private static let seconds = "extract(epoch FROM date_trunc('second', created_at))::bigint"
    private static let value = "CASE WHEN set_mask & flag <> 0 THEN 1 ELSE -1 END"
    private static let flag = "if(metricType = 'ReactionLike', 1, 2)"
    private static let flags = "(VALUES (1, 'ReactionLike'), (2, 'ReactionHeart')) AS kind (flag, metric)"

    private static func changes(above floor: Int64) -> String {
        "reactions._outbox JOIN \(flags) ON (set_mask | clear_mask) & flag <> 0 WHERE version > \(floor)"
    }

    /// - Parameter floor: every row above it is meant.
    init(outbox session: PostgresConnection, above floor: Int64) throws {
        self.floor = floor
        let columns = Self.outboxColumns
        let deltas =
            "SELECT entity_id, flag, sum(\(Self.value))::bigint AS delta FROM \(Self.changes(above: floor)) GROUP BY 1, 2"
        let delta = ["entity": "entity_id", "flag": "flag", "delta": "delta"]
        expected = try [
            "SELECT count(*), \(Self.text(Self.eventSum, columns)) FROM reactions._outbox WHERE version > \(floor)",
            "SELECT count(*), \(Self.text(Self.deltaSum, delta)) FROM (\(deltas)) AS d WHERE delta <> 0",
            "SELECT count(*), \(Self.text(Self.changeSum, columns)) FROM \(Self.changes(above: floor))",
        ].map { sql in try session.query(sql)[0].map { $0 ?? "" } }
    }

    /// Compares with what the database of ClickHouse holds above the floor, in which every delta is of a batch above the one given.
    func check(_ clickHouse: ClickHouseServer, _ database: String, batchesAbove batch: Int64 = 0) throws {
        let columns = Self.clickHouseColumns
        let deltas = """
            SELECT entityId, metricType, sum(delta) AS delta FROM reactionDeltas WHERE batch > \(batch)
            GROUP BY entityId, metricType
            """
        let found = try [
            "SELECT count(), \(Self.text(Self.eventSum, columns)) FROM reactionsByEntity WHERE version > \(floor)",
            "SELECT count(), \(Self.text(Self.deltaSum, columns)) FROM (\(deltas))",
            "SELECT count(), \(Self.text(Self.changeSum, columns)) FROM entityMetricEvents WHERE version > \(floor)",
        ].map { try clickHouse.rows($0, database: database)[0] }
        for (table, (found, expected)) in zip(Self.tables, zip(found, expected)) {
            guard found != expected else { continue }
            throw BenchmarkError("wrong rows: \(table) holds \(found) instead of \(expected) (count and checksum)")
        }
    }

    /// The rows of each table as a SELECT whose columns are in the table's order. Batch and part are constants.
    static func pipedQueries(above floor: Int64) -> [(table: String, query: String)] {
        [
            (
                "reactionsByEntity",
                """
                SELECT 'Image', entity_id, user_id, set_mask, clear_mask & ~set_mask, \(seconds), version, 1, 0
                FROM reactions._outbox WHERE version > \(floor)
                """
            ),
            (
                "reactionDeltas",
                """
                SELECT 'Image', entity_id, metric, sum(\(value)), 1, 0
                FROM \(changes(above: floor)) GROUP BY entity_id, metric HAVING sum(\(value)) <> 0
                """
            ),
            (
                "entityMetricEvents",
                """
                SELECT 'Image', entity_id, user_id, metric, \(value), \(seconds), version, 1, 0 FROM \(changes(above: floor))
                """
            ),
        ]
    }
}
