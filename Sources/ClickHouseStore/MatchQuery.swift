public import ReactionModel

/// What ClickHouse says of the reactions of a type, to be compared with its table: in the order of (user, entity), those that are set or
/// whose sum of values is not what their state says. Answered in RowBinary, 28 bytes a reaction.
public struct MatchQuery: Sendable {
    /// Keys per query: below 256 KiB of text and 50,000 elements, where ClickHouse stops parsing by default.
    public static let keysPerQuery = 5_000

    public let typeRows: TypeRows
    /// Only rows up to this version count; those above it tell what went later.
    private let asOf: Version?

    public init(type: EntityType, asOf: Version?) {
        typeRows = TypeRows(type: type)
        self.asOf = asOf
    }

    /// A reaction's flags, and those of its kinds of which something else is to be told.
    public struct State: Equatable, Sendable {
        public var userID: Int64
        public var entityID: Int64
        public var flags: Int32
        /// Kinds whose sum of values differs from the state.
        public var wrongSums: Int32
        /// Kinds of `flags` that a row above `asOf` took away.
        public var goneLater: Int32

        public init(userID: Int64, entityID: Int64, flags: Int32, wrongSums: Int32 = 0, goneLater: Int32 = 0) {
            self.userID = userID
            self.entityID = entityID
            self.flags = flags
            self.wrongSums = wrongSums
            self.goneLater = goneLater
        }
    }

    /// The first reactions of some users, all of them or those behind one.
    public func states(of users: ClosedRange<Int64>, after last: State?, limit: Int) -> String {
        let rest =
            last.map { " AND (userId > \($0.userID) OR userId = \($0.userID) AND entityId > \($0.entityID))" } ?? ""
        let from = max(users.lowerBound, last?.userID ?? users.lowerBound)
        guard from <= users.upperBound else { return states(where: "0", limit: limit) }
        return states(where: typeRows.condition(from...users.upperBound) + rest, limit: limit)
    }

    /// - Parameter keys: at least one, at most `keysPerQuery`.
    public func states(of keys: some Sequence<(userID: Int64, entityID: Int64)>) -> String {
        let list = keys.map { "(\($0.userID),\($0.entityID))" }.joined(separator: ",")
        return states(where: "\(typeRows.condition) AND (userId, entityId) IN (\(list))", limit: nil)
    }

    private func states(where condition: String, limit: Int?) -> String {
        let counts = asOf.map { "version <= \($0.rawValue)" }
        let last = counts.map { "argMaxIf(metricValue, version, \($0))" } ?? "argMax(metricValue, version)"
        let total = counts.map { "sumIf(toInt64(metricValue), \($0))" } ?? "sum(toInt64(metricValue))"
        let gone = counts.map { "countIf(NOT \($0) AND metricValue < 0) > 0" } ?? "0"
        return """
            SELECT toInt64(userId), toInt64(entityId), toInt32(sum(kind * isSet)), toInt32(sum(kind * (total != isSet))), \
            toInt32(sum(kind * (isSet AND isGone))) FROM (\
            SELECT userId, entityId, \(typeRows.kind) AS kind, \(last) > 0 AS isSet, \(total) AS total, \(gone) AS isGone \
            FROM entityMetricEvents WHERE \(condition) \
            GROUP BY userId, entityId, kind HAVING kind != 0 AND (isSet OR total != 0)) \
            GROUP BY userId, entityId ORDER BY userId, entityId\(limit.map { " LIMIT \($0)" } ?? "") FORMAT RowBinary
            """
    }

    private static let width = 28

    /// The rows of a whole answer; nil if it does not consist of rows to its last byte.
    public static func states(_ answer: [UInt8]) -> [State]? {
        guard answer.count.isMultiple(of: width) else { return nil }
        return answer.withUnsafeBytes { bytes in
            func number<Number: FixedWidthInteger>(_ start: Int, _: Number.Type) -> Number {
                Number(littleEndian: bytes.loadUnaligned(fromByteOffset: start, as: Number.self))
            }
            return stride(from: 0, to: bytes.count, by: width).map { start in
                State(
                    userID: number(start, Int64.self), entityID: number(start &+ 8, Int64.self),
                    flags: number(start &+ 16, Int32.self), wrongSums: number(start &+ 20, Int32.self),
                    goneLater: number(start &+ 24, Int32.self))
            }
        }
    }
}
