/// Cuts the users of a type into slices of about as many rows, each in one run of user ids, so that a slice is read by ClickHouse's
/// primary key and grouped in memory of a fixed size.
///
/// The rows are counted per bucket of equally many ids; a bucket with too many is counted again, in smaller ones, until it is a single
/// user's.
public struct SlicePlan: Sendable {
    /// Rows of one slice, unless one user has more.
    public static let sliceRows: Int64 = 1 << 20
    /// Buckets that a range of users is counted in.
    public static let buckets: UInt64 = 1024

    public enum Action: Equatable, Sendable {
        /// Count the rows per bucket of so many user ids, from the first of the range.
        case count(ClosedRange<Int64>, width: UInt64)
        /// Do what is to be done for a slice.
        case take(ClosedRange<Int64>)
        case finish
    }

    private let sliceRows: Int64
    /// What comes next is last: ranges that are known to be small enough, and others.
    private var pending: [(users: ClosedRange<Int64>, isSlice: Bool)]

    /// - Parameter users: from the smallest id that is not done to the largest; nil if there are none.
    public init(users: ClosedRange<Int64>?, sliceRows: Int64 = Self.sliceRows) {
        self.sliceRows = sliceRows
        pending = users.map { [($0, false)] } ?? []
    }

    public var action: Action {
        guard let next = pending.last else { return .finish }
        return next.isSlice ? .take(next.users) : .count(next.users, width: Self.width(next.users))
    }

    /// The answer to `count`: rows per bucket, those without any may be missing.
    public mutating func counted(_ rows: [UInt64: Int64]) {
        guard let (users, _) = pending.popLast() else { return }
        let width = Self.width(users)
        var parts: [(users: ClosedRange<Int64>, isSlice: Bool)] = []
        /// Rows of the last part, which may grow.
        var open: Int64?
        for (bucket, count) in rows.sorted(by: { $0.key < $1.key }) {
            let lower = Int64(truncatingIfNeeded: UInt64(truncatingIfNeeded: users.lowerBound) &+ bucket &* width)
            let left = UInt64(truncatingIfNeeded: users.upperBound &- lower)
            let bounds = lower...(lower &+ Int64(truncatingIfNeeded: min(width - 1, left)))
            if count > sliceRows, width > 1 {
                parts.append((bounds, false))
                open = nil
            } else if let rows = open, rows + count <= sliceRows, let last = parts.last {
                parts[parts.count - 1].users = last.users.lowerBound...bounds.upperBound
                open = rows + count
            } else {
                parts.append((bounds, true))
                open = count
            }
        }
        pending += parts.reversed()
    }

    public mutating func taken() {
        if pending.last?.isSlice == true { pending.removeLast() }
    }

    private static func width(_ users: ClosedRange<Int64>) -> UInt64 {
        UInt64(truncatingIfNeeded: users.upperBound &- users.lowerBound) / buckets + 1
    }
}
