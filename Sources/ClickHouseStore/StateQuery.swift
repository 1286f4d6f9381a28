public import ReactionModel

/// The flags of many reactions of one type as of every row below a (batch, version). Answered in RowBinary, 20 bytes a row: user,
/// entity, and the bit of a kind that is set, or minus the bit of one that is known to be clear although others may not be known.
public struct StateQuery {
    /// Keys per query: below 256 KiB of text and 50,000 elements, where ClickHouse stops parsing by default.
    public static let keysPerQuery = 5_000

    private let type: EntityType
    private let batch: BatchNumber
    private let version: Version
    private let era: BackfillEra?

    public init(type: EntityType, in era: BackfillEra?, before batch: BatchNumber, _ version: Version) {
        self.type = type
        self.era = era
        self.batch = batch
        self.version = version
    }

    /// - Parameter keys: at least one, at most `keysPerQuery`.
    public func text(keys: some Sequence<(userID: Int64, entityID: Int64)>) -> String {
        let list = keys.map { "(\($0.userID),\($0.entityID))" }.joined(separator: ",")
        let flag = SQL.flag(of: type.kinds)
        return """
            SELECT toInt64(userId), toInt64(entityId), \
            \(tellsCleared ? "toInt32(\(flag) * if(argMax(metricValue, version) > 0, 1, -1))" : flag) FROM entityMetricEvents \
            WHERE entityType = \(SQL.quoted(type.name)) AND (userId, entityId) IN (\(list)) AND \(condition) \
            GROUP BY userId, entityId, metricType\(tellsCleared ? "" : " HAVING argMax(metricValue, version) > 0") \
            FORMAT RowBinary
            """
    }

    /// Whether what is not answered is unknown, and not clear.
    public var tellsCleared: Bool { era.map { !$0.isComplete(for: batch) } ?? false }

    /// What is older than a backfill says nothing any more; its own rows say something when all of them are there.
    private var condition: String {
        let mirrored = "batch < \(batch.rawValue) OR batch = \(batch.rawValue) AND version < \(version.rawValue)"
        guard let era else { return "(\(mirrored))" }
        let base = era.version.rawValue
        return tellsCleared
            ? "version > \(base) AND (\(mirrored))"
            : "version >= \(base) AND (version = \(base) OR \(mirrored))"
    }

    public struct Row: Equatable, Sendable {
        public var userID: Int64
        public var entityID: Int64
        /// Negative for a kind that is clear; 0 for one that the catalog does not know.
        public var flag: Int32
    }

    private static let width = 20

    /// The rows of a whole answer; nil if it does not consist of rows to its last byte.
    public static func rows(_ answer: [UInt8]) -> [Row]? {
        guard answer.count.isMultiple(of: width) else { return nil }
        return answer.withUnsafeBytes { bytes in
            stride(from: 0, to: bytes.count, by: width).map { start in
                Row(
                    userID: Int64(littleEndian: bytes.loadUnaligned(fromByteOffset: start, as: Int64.self)),
                    entityID: Int64(littleEndian: bytes.loadUnaligned(fromByteOffset: start &+ 8, as: Int64.self)),
                    flag: Int32(littleEndian: bytes.loadUnaligned(fromByteOffset: start &+ 16, as: Int32.self)))
            }
        }
    }
}
