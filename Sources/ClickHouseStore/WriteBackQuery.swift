public import ReactionModel

/// What a table has missed: the reactions of a type that changed above a version, in some of the mirror's batches, each kind as its newest
/// row there says. A kind without a row in these batches is in the table as it was left.
public struct WriteBackQuery: Sendable {
    private let type: EntityType
    private let version: Version
    private let batches: (after: BatchNumber, through: BatchNumber)

    /// - Parameter version: the last event that was a change of the table.
    public init(type: EntityType, above version: Version, after: BatchNumber, through: BatchNumber) {
        self.type = type
        self.version = version
        self.batches = (after, through)
    }

    /// The smallest and the largest user id above one, and the number of rows.
    public func users(above user: Int64?) -> String {
        "SELECT min(userId), max(userId), count() FROM entityMetricEvents WHERE \(changed)"
            + (user.map { " AND userId > \($0)" } ?? "")
    }

    /// The number of reactions; an estimate if they are many.
    public var reactions: String { "SELECT uniq(userId, entityId) FROM entityMetricEvents WHERE \(changed)" }

    /// Rows per run of `width` user ids: number of the run, count.
    public func histogram(_ users: ClosedRange<Int64>, width: UInt64) -> String {
        """
        SELECT intDiv(toUInt64(userId - toInt64(\(users.lowerBound))), toUInt64(\(width))) AS bucket, count() \
        FROM entityMetricEvents WHERE \(changed) AND \(Self.of(users)) GROUP BY bucket
        """
    }

    /// A kind of one reaction.
    public struct Kind: Equatable, Sendable {
        public var userID: Int64
        public var entityID: Int64
        public var flag: Int32
        public var isSet: Bool
        /// It was taken away meanwhile, and perhaps set again.
        public var wasCleared: Bool
        /// Of the newest row, microseconds since 1970-01-01 UTC.
        public var createdAt: Int64

        public init(
            userID: Int64, entityID: Int64, flag: Int32, isSet: Bool, wasCleared: Bool, createdAt: Int64
        ) {
            self.userID = userID
            self.entityID = entityID
            self.flag = flag
            self.isSet = isSet
            self.wasCleared = wasCleared
            self.createdAt = createdAt
        }
    }

    /// The kinds of some users, in the order of (user, entity, time). Answered in RowBinary, 30 bytes a kind.
    public func kinds(_ users: ClosedRange<Int64>, form: MirrorLayout.TimeForm) -> String {
        let time =
            switch form {
            case .seconds: "toInt64(toUInt32(at)) * 1000000"
            case .microseconds: "toUnixTimestamp64Micro(at)"
            }
        return """
            SELECT toInt64(userId), toInt64(entityId), \(SQL.flag(of: type.kinds)) AS flag, toUInt8(last > 0), toUInt8(least < 0), \
            \(time) AS time FROM (\
            SELECT userId, entityId, metricType, argMax(metricValue, version) AS last, min(metricValue) AS least, \
            argMax(createdAt, version) AS at FROM entityMetricEvents WHERE \(changed) AND \(Self.of(users)) \
            GROUP BY userId, entityId, metricType) WHERE flag != 0 ORDER BY userId, entityId, time, flag FORMAT RowBinary
            """
    }

    private static let width = 30

    /// The kinds of a whole answer; nil if it does not consist of them to its last byte.
    public static func kinds(_ answer: [UInt8]) -> [Kind]? {
        guard answer.count.isMultiple(of: width) else { return nil }
        return answer.withUnsafeBytes { bytes in
            func number<Number: FixedWidthInteger & BitwiseCopyable>(_ start: Int, _: Number.Type) -> Number {
                Number(littleEndian: bytes.loadUnaligned(fromByteOffset: start, as: Number.self))
            }
            return stride(from: 0, to: bytes.count, by: width).map { start in
                Kind(
                    userID: number(start, Int64.self), entityID: number(start &+ 8, Int64.self),
                    flag: number(start &+ 16, Int32.self), isSet: number(start &+ 20, UInt8.self) != 0,
                    wasCleared: number(start &+ 21, UInt8.self) != 0, createdAt: number(start &+ 22, Int64.self))
            }
        }
    }

    private var changed: String {
        """
        entityType = \(SQL.quoted(type.name)) AND version > \(version.rawValue) \
        AND batch > \(batches.after.rawValue) AND batch <= \(batches.through.rawValue)
        """
    }

    private static func of(_ users: ClosedRange<Int64>) -> String {
        "userId >= toInt64(\(users.lowerBound)) AND userId <= toInt64(\(users.upperBound))"
    }
}
