public import ReactionModel

/// Counts of entities by ClickHouse, each as of a chunk of its own: what Redis, which has counted up to there, should have.
///
/// Every batch up to `common` counts for all of them, and so does what a backfill has brought. An entity that was counted beyond has its
/// own end, which is later. Answers are TabSeparated.
public struct EntityCheck: Sendable {
    /// Ids per query: a term of the text for each, below the 50,000 elements that ClickHouse parses by default.
    public static let idsPerQuery = 1_000

    public struct Subject: Equatable, Sendable {
        public var entityID: Int64
        /// The last chunk that counts, if it is beyond `common`.
        public var last: (batch: BatchNumber, part: Int32)

        public init(entityID: Int64, last: (batch: BatchNumber, part: Int32)) {
            self.entityID = entityID
            self.last = last
        }

        public static func == (left: Subject, right: Subject) -> Bool {
            left.entityID == right.entityID && left.last == right.last
        }
    }

    private let type: EntityType
    private let common: BatchNumber

    public init(type: EntityType, common: BatchNumber) {
        self.type = type
        self.common = common
    }

    /// Entity, flag and count by `reactionDeltas`. A chunk's delta counts once, however often it is there.
    public func deltas(of subjects: some Collection<Subject>) -> String {
        """
        SELECT entity, flag, sum(change) AS total FROM (\
        SELECT toInt64(entityId) AS entity, \(SQL.flag(of: type.kinds)) AS flag, toInt64(any(delta)) AS change \
        FROM reactionDeltas WHERE \(condition(subjects)) GROUP BY entityId, metricType, batch, part) \
        WHERE flag != 0 GROUP BY entity, flag HAVING total != 0
        """
    }

    /// The same by the newest event of each kind of each user; flag 0 has the users with any kind. Users are looked up where rows are in
    /// the order of entities.
    public func events(of subjects: some Collection<Subject>) -> String {
        let ids = subjects.lazy.map { String($0.entityID) }.joined(separator: ",")
        let ofType = "entityType = \(SQL.quoted(type.name))"
        let parts = "[\((["0"] + type.kinds.map { "\($0.flag)" }).joined(separator: ","))]"
        return """
            SELECT entity, toInt32(part) AS one, count() AS total FROM (\
            SELECT entity, user, toInt32(sum(bit * isSet)) AS flags FROM (\
            SELECT toInt64(entityId) AS entity, toInt64(userId) AS user, \(SQL.flag(of: type.kinds)) AS bit, \
            argMax(metricValue, version) > 0 AS isSet FROM entityMetricEvents WHERE \(condition(subjects)) \
            AND userId GLOBAL IN (SELECT userId FROM reactionsByEntity WHERE \(ofType) AND entityId IN (\(ids))) \
            GROUP BY entityId, userId, metricType) GROUP BY entity, user HAVING flags != 0) \
            ARRAY JOIN \(parts) AS part WHERE part = 0 OR bitAnd(flags, part) != 0 GROUP BY entity, part
            """
    }

    private func condition(_ subjects: some Collection<Subject>) -> String {
        let ids = subjects.lazy.map { String($0.entityID) }.joined(separator: ",")
        let beyond = subjects.filter { $0.last.batch > common }.map { subject in
            """
             OR entityId = \(subject.entityID) AND (batch < \(subject.last.batch.rawValue) \
            OR batch = \(subject.last.batch.rawValue) AND part <= \(subject.last.part))
            """
        }
        return """
            entityType = \(SQL.quoted(type.name)) AND entityId IN (\(ids)) \
            AND (batch <= \(common.rawValue) OR bitAnd(batch, \(BackfillBatches.mark)) != 0\(beyond.joined(separator: "")))
            """
    }

    public struct Count: Equatable, Sendable {
        public var entityID: Int64
        public var flag: Int32
        public var count: Int64
    }

    /// Nil if the answer is no table of counts.
    public static func counts(_ rows: [[String]]) -> [Count]? {
        var counts: [Count] = []
        for row in rows {
            guard row.count == 3, let entity = Int64(row[0]), let flag = Int32(row[1]), let count = Int64(row[2]) else {
                return nil
            }
            counts.append(Count(entityID: entity, flag: flag, count: count))
        }
        return counts
    }
}
