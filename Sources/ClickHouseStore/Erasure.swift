public import ReactionModel

/// Takes every row of users away, up to a version of each, from the tables that name users.
///
/// The rows of a user that is gone add up to zero for every kind of every entity, so the deltas, which name nobody, go on agreeing with
/// the changes.
public struct Erasure: Sendable {
    /// Users of one statement, as `Removal.mostEvents`.
    public static let mostUsers = 1_000
    public static let tables: [MirrorTable] = [.entityMetricEvents, .reactionsByEntity]

    private let condition: String

    /// - Parameters:
    ///   - users: at least one, at most `mostUsers`, each once.
    ///   - entityTypes: the names of all types.
    public init(of users: [(userID: Int64, version: Version)], entityTypes: [String]) {
        let versions = SQL.value(of: "userId", in: users.map { ($0.userID, $0.version.rawValue) })
        condition = """
            entityType IN (\(SQL.list(entityTypes))) AND userId IN (\(users.map { String($0.userID) }.joined(separator: ","))) \
            AND version <= \(versions)
            """
    }

    /// The rows that are there: entity type, user, number.
    public var rows: String {
        let selects = Self.tables.map { "SELECT entityType, userId FROM \($0.rawValue) WHERE \(condition)" }
        return """
            SELECT toString(entityType) AS name, userId, count() FROM (\(selects.joined(separator: " UNION ALL "))) \
            GROUP BY name, userId
            """
    }

    /// The number of kinds of reactions whose rows do not add up to zero: rows that are there twice, or an event that is missing.
    public var unbalanced: String {
        """
        SELECT count() FROM (SELECT userId FROM entityMetricEvents WHERE \(condition) \
        GROUP BY entityType, userId, entityId, metricType HAVING sum(metricValue) != 0)
        """
    }

    /// A mutation: done some time after it was accepted.
    public func delete(from table: MirrorTable, on cluster: MirrorCluster?, database: String) -> String {
        "ALTER TABLE \(table.target(cluster, database: database)) DELETE WHERE \(condition)"
    }
}
