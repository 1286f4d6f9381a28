public import ReactionModel

/// Queries and commands of a backfill: about the rows that were read, and those by which it is sealed.
///
/// Sealing compares, per (user, entity, kind), the state with the sum of values. The state is that of the newest row if that is one of
/// the backfill or newer; else nobody has the reaction, and whatever older rows say, it vanished while nobody captured. Where the
/// two differ, or an older row would show, rows are added:
///
/// - a *clear*, -1 of the backfill's version, where there is no row of that version or a newer one although the older ones are not
///   settled at zero: it decides the state;
/// - a *seal*, the difference, of the version below: it never decides a state.
///
/// Each statement adds what is missing, so it may be repeated after it was done in part. All have one query id: the server runs only one.
public struct BackfillQuery: Sendable {
    public let typeRows: TypeRows
    private let version: Version
    private let sealVersion: Version
    private let batches: BackfillBatches

    public init(type: EntityType, version: Version, sealVersion: Version, batches: BackfillBatches) {
        self.typeRows = TypeRows(type: type)
        self.version = version
        self.sealVersion = sealVersion
        self.batches = batches
    }

    // MARK: Rows that were read

    /// The number of rows of a range that are there: all that one attempt has read, or none.
    public func rows(ofRange range: Int) -> String {
        "SELECT count() FROM entityMetricEvents WHERE batch = \(batches.range(range).rawValue)"
    }

    /// The same for every attempt, whoever makes it; the rows may differ, and any attempt's will do.
    public func token(ofRange range: Int) -> String {
        "backfill:\(batches.range(range).rawValue)"
    }

    public func queryID(ofRange range: Int, database: String) -> String {
        "reactiond:\(database):backfill:\(batches.range(range).rawValue)"
    }

    /// Drops the rows of a reading that was given up. On a cluster it is a mutation, done some time after it was accepted: 18.16 goes on
    /// looking for a dropped partition's last confirmed part, and answers nothing any more.
    public static func drop(
        partition: Int64, from table: MirrorTable, on cluster: MirrorCluster?, database: String
    ) -> String {
        let what = cluster == nil ? "DROP PARTITION \(partition)" : "DELETE WHERE \(condition(partition))"
        return "ALTER TABLE \(table.target(cluster, database: database)) \(what)"
    }

    /// The number of rows of a reading that was given up.
    public static func rows(inPartition partition: Int64, of table: MirrorTable) -> String {
        "SELECT count() FROM \(table.rawValue) WHERE \(condition(partition)) AND part != \(MirrorTable.blankPart)"
    }

    private static func condition(_ partition: Int64) -> String {
        let first = partition &* MirrorTable.batchesPerPartition
        return "batch >= \(first) AND batch < \(first &+ MirrorTable.batchesPerPartition)"
    }

    // MARK: Slices of users

    /// Four numbers: clears that are missing, differences, reactions whose row is there twice, and the largest difference.
    public func differences(_ users: ClosedRange<Int64>) -> String {
        """
        SELECT sum(\(Self.lacksClear(version))), sum(\(Self.differs(version))), sum(copies > 1), \
        max(if(\(Self.differs(version)), abs((last > 0) - total), 0)) FROM (\(reactions(users)))
        """
    }

    public func insertClears(_ users: ClosedRange<Int64>) -> String {
        insertRows(users, value: "toInt8(-1)", version: version, where: Self.lacksClear(version))
    }

    public func insertSeals(_ users: ClosedRange<Int64>) -> String {
        insertRows(users, value: "toInt8((last > 0) - total)", version: sealVersion, where: Self.differs(version))
    }

    /// Who reacted to what, of the rows that were read and the clears.
    public func insertByEntity(_ users: ClosedRange<Int64>) -> String {
        """
        INSERT INTO reactionsByEntity (\(MirrorTable.reactionsByEntity.columns.joined(separator: ", "))) \
        SELECT \(name), entityId, userId, toInt32(groupBitOrIf(\(kind), metricValue > 0)), \
        toInt32(groupBitOrIf(\(kind), metricValue < 0)), max(createdAt), toInt64(\(version.rawValue)), \(place) \
        FROM entityMetricEvents WHERE \(typeRows.condition(users)) AND version = \(version.rawValue) GROUP BY userId, entityId
        """
    }

    // MARK: The whole type

    /// Brings the sums of deltas to the sums of values, of everything up to a finished batch. No row of `entityMetricEvents` may be
    /// there twice.
    public func insertDeltas(through batch: BatchNumber) -> String {
        let counted = "(batch <= \(batch.rawValue) OR bitAnd(batch, \(BackfillBatches.mark)) != 0)"
        return """
            INSERT INTO reactionDeltas (\(MirrorTable.reactionDeltas.columns.joined(separator: ", "))) \
            SELECT \(name), entityId, \(metricType), sum(change) AS difference, \(place) FROM (\
            SELECT entityId, \(kind) AS kind, toInt64(metricValue) AS change FROM entityMetricEvents WHERE \(ofType) AND \(counted) \
            UNION ALL SELECT entityId, \(kind) AS kind, -delta AS change FROM reactionDeltas WHERE \(ofType) AND \(counted)) \
            WHERE kind != 0 GROUP BY entityId, kind HAVING difference != 0
            """
    }

    public var partition: Int64 { batches.partition }

    /// Merges rows that are there twice.
    public func optimize(_ table: MirrorTable, on cluster: MirrorCluster?, database: String) -> String {
        table.optimize(cluster, database: database, partition: partition)
    }

    /// One number: at most 1 when everything of the partition is merged, on the shard that is the last to have done so.
    public func parts(_ table: MirrorTable, on cluster: MirrorCluster?, database: String) -> String {
        """
        SELECT max(parts) FROM (SELECT count() AS parts FROM \(table.about("system.parts", cluster, database: database)) \
        AND partition = '\(batches.partition)' AND active \
        GROUP BY hostName(), substring(path, 1, toUInt64(length(path) - length(name))))
        """
    }

    /// Of every statement that seals.
    public func queryID(database: String) -> String {
        "reactiond:\(database):seal:\(batches.seal.rawValue)"
    }

    // MARK: Pieces

    private var type: EntityType { typeRows.type }
    private var name: String { typeRows.name }
    private var ofType: String { typeRows.condition }
    private var kind: String { typeRows.kind }
    private var place: String { "toInt64(\(batches.seal.rawValue)), toInt32(0)" }

    /// The name of a bit.
    private var metricType: String {
        let flags = type.kinds.map { String($0.flag) }.joined(separator: ", ")
        return "transform(kind, [\(flags)], [\(SQL.list(type.kinds.map(\.metricType)))], '')"
    }

    /// One row per reaction. Rows of the backfill may be there twice, and count once.
    private func reactions(_ users: ClosedRange<Int64>) -> String {
        let isRead = "version = \(version.rawValue)"
        return """
            SELECT userId, entityId, \(kind) AS kind, max(version) AS newest, argMax(metricValue, version) AS last, \
            sumIf(toInt64(metricValue), NOT \(isRead)) + toInt64(anyIf(metricValue, \(isRead))) AS total, countIf(\(isRead)) AS copies \
            FROM entityMetricEvents WHERE \(typeRows.condition(users)) GROUP BY userId, entityId, kind HAVING kind != 0
            """
    }

    private static func lacksClear(_ version: Version) -> String {
        "newest < \(version.rawValue) AND (last > 0 OR total != 0)"
    }

    private static func differs(_ version: Version) -> String {
        "newest >= \(version.rawValue) AND (last > 0) != total"
    }

    /// Of time 0: they are no actions of the user.
    private func insertRows(
        _ users: ClosedRange<Int64>, value: String, version: Version, where condition: String
    ) -> String {
        """
        INSERT INTO entityMetricEvents (\(MirrorTable.entityMetricEvents.columns.joined(separator: ", "))) \
        SELECT \(name), entityId, userId, \(metricType), \(value), toDateTime(0, 'UTC'), toInt64(\(version.rawValue)), \(place) \
        FROM (\(reactions(users))) WHERE \(condition)
        """
    }
}

extension BackfillBatches {
    var partition: Int64 { seal.rawValue / MirrorTable.batchesPerPartition }
}
