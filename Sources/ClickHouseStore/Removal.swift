public import ReactionModel

/// "Every reaction up to a version is gone", of users, of entities or of a whole type, written out by the server itself: the rows follow
/// from what `entityMetricEvents` holds.
///
/// Consecutive events of one scope and type are one removal, each with its own version: the deletion of ten thousand users costs ten
/// statements per table and not ten thousand.
///
/// Idempotent by construction, as long as no two attempts overlap (they share a query id): the rows are made from reactions whose newest
/// row up to the version is set, and `entityMetricEvents`, which is written last, makes them cleared. So an attempt that wrote part of
/// `entityMetricEvents` is taken up by writing that table's rest only: the other tables were complete before. An attempt that did not
/// reach `entityMetricEvents` is repeated; what it had written before is then there twice until merged, hence `ChunkQuery.optimize`.
///
/// The rows follow from the events of the whole removal, so it is never divided: nothing of it is content that the server could refuse.
public struct Removal: Sendable {
    /// Events of one removal: at 20 digits an id well below the 256 KiB of text that ClickHouse parses by default. A batch that is under
    /// way while the agent is upgraded must find the same removals again, so the number stays what it is.
    public static let mostEvents = 1_000

    private let type: EntityType
    private let scope: EventScope
    /// One for each user or entity, in the order of their ids; one for a type.
    private let events: [Event]
    private let batch: BatchNumber
    private let part: Int32

    /// - Parameter events: of the type, in version order and of one scope other than `reaction`; at least one, at most `mostEvents`.
    ///   Of several for one id the last counts: whoever writes an event of that id waits for the first, so there is none in between.
    public init(of type: EntityType, by events: [Event], batch: BatchNumber, part: Int32) {
        self.type = type
        self.scope = events.first?.scope ?? .type
        self.batch = batch
        self.part = part
        var last: [Int64: Event] = [:]
        for event in events { last[Self.id(event)] = event }
        self.events = last.sorted { $0.key < $1.key }.map(\.value)
    }

    /// Whether the event belongs to the same removal as the events before it.
    public static func isOne(_ events: [Event], with next: Event) -> Bool {
        guard let first = events.first else { return true }
        return first.scope != .reaction && first.scope != .type && next.scope == first.scope
            && next.typeID == first.typeID && events.count < mostEvents
    }

    /// The number of kinds of reactions that are still set.
    public var remaining: String { "SELECT count() FROM (\(alive))" }

    public func insert(into table: MirrorTable) -> String {
        let name = SQL.quoted(type.name)
        let place = "toInt64(\(batch.rawValue)), toInt32(\(part))"
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

    /// A type, or many users, are grouped: in the order of the primary key where the server can, else with the disk's help above 1 GiB.
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

    /// A page of the users whose reactions the event of an entity has taken away, ascending: the rows of its version.
    public static func users(removedBy event: Event, of type: EntityType, above user: Int64?, limit: Int) -> String {
        """
        SELECT DISTINCT userId FROM reactionsByEntity WHERE entityType = \(SQL.quoted(type.name)) \
        AND entityId = \(event.entityID) AND version = \(event.version.rawValue)\(user.map { " AND userId > \($0)" } ?? "") \
        ORDER BY userId LIMIT \(limit)
        """
    }

    // MARK: Pieces

    /// An entity's users are looked up where rows are in the order of entities, so that of `entityMetricEvents` only theirs are read.
    private var alive: String {
        let ofType = "entityType = \(SQL.quoted(type.name))"
        let ofScope =
            switch scope {
            case .reaction, .type: ""
            case .user: " AND userId IN (\(ids))"
            case .entity:
                """
                 AND entityId IN (\(ids)) \
                AND userId GLOBAL IN (SELECT userId FROM reactionsByEntity WHERE \(ofType) AND entityId IN (\(ids)))
                """
            }
        return """
            SELECT userId, entityId, metricType FROM entityMetricEvents WHERE \(ofType)\(ofScope) AND version <= \(version) \
            GROUP BY userId, entityId, metricType HAVING argMax(metricValue, version) > 0
            """
    }

    private var version: String { SQL.value(of: column, in: events.map { (Self.id($0), $0.version.rawValue) }) }

    private var time: String {
        let seconds = events.map { (Self.id($0), Int64(UInt32(clamping: $0.createdAt / 1_000_000))) }
        return "toDateTime(\(SQL.value(of: column, in: seconds)), 'UTC')"
    }

    private var ids: String { events.map { String(Self.id($0)) }.joined(separator: ",") }
    private var column: String { scope == .entity ? "entityId" : "userId" }

    private static func id(_ event: Event) -> Int64 {
        switch event.scope {
        case .reaction, .type: 0
        case .user: event.userID
        case .entity: event.entityID
        }
    }
}
