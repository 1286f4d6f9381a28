public import ReactionModel

/// "Every reaction of the type up to a version is gone", written out by the server itself: an event of scope `type` is a chunk of its
/// own, and the rows follow from what `entityMetricEvents` holds.
///
/// Idempotent by construction, as long as no two attempts overlap (they share a query id): the rows are made from reactions whose newest
/// row up to the version is set, and `entityMetricEvents`, which is written last, makes them cleared. So an attempt that wrote part of
/// `entityMetricEvents` is taken up by writing that table's rest only: the other tables were complete before. An attempt that did not
/// reach `entityMetricEvents` is repeated; what it had written before is then there twice until merged, hence `ChunkQuery.optimize`.
public struct TypeTruncation: Sendable {
    private let type: EntityType
    private let event: Event
    private let batch: BatchNumber
    private let part: Int32

    public init(of type: EntityType, by event: Event, batch: BatchNumber, part: Int32) {
        self.type = type
        self.event = event
        self.batch = batch
        self.part = part
    }

    /// The number of kinds of reactions that are still set.
    public var remaining: String { "SELECT count() FROM (\(alive))" }

    public func insert(into table: MirrorTable) -> String {
        let name = SQL.quoted(type.name)
        let place = "toInt64(\(batch.rawValue)), toInt32(\(part))"
        let time = "toDateTime(\(UInt32(clamping: event.createdAt / 1_000_000)), 'UTC')"
        let version = "toInt64(\(event.version.rawValue))"
        let select =
            switch table {
            case .reactionsByEntity:
                """
                SELECT \(name), entityId, userId, toInt32(0), toInt32(sum(\(SQL.flag(of: type.kinds)))), \(time), \(version), \
                \(place) FROM (\(alive)) GROUP BY userId, entityId
                """
            case .reactionDeltas:
                "SELECT \(name), entityId, metricType, -toInt64(count()), \(place) FROM (\(alive)) GROUP BY entityId, metricType"
            case .entityMetricEvents:
                "SELECT \(name), entityId, userId, metricType, toInt8(-1), \(time), \(version), \(place) FROM (\(alive))"
            }
        return "INSERT INTO \(table.rawValue) (\(table.columns.joined(separator: ", "))) \(select)"
    }

    /// The whole type is grouped: in the order of the primary key where the server can, else with the disk's help above 1 GiB.
    public static func settings(_ abilities: ServerAbilities) -> [(name: String, value: String)] {
        var settings = [("max_bytes_before_external_group_by", "1073741824")]
        if abilities.knows(setting: "optimize_aggregation_in_order") {
            settings.append(("optimize_aggregation_in_order", "1"))
        }
        // A block that was lost after it had been inserted must not be taken for a repetition.
        for (name, value) in [("insert_deduplicate", "0"), ("deduplicate_insert_select", "disable")]
        where abilities.knows(setting: name) {
            settings.append((name, value))
        }
        return settings
    }

    private var alive: String {
        """
        SELECT userId, entityId, metricType FROM entityMetricEvents \
        WHERE entityType = \(SQL.quoted(type.name)) AND version <= \(event.version.rawValue) \
        GROUP BY userId, entityId, metricType HAVING argMax(metricValue, version) > 0
        """
    }
}
