/// How long events took from the write to ClickHouse's confirmation; kept per batch in `reactions._batch.lag_histogram`.
public struct LagHistogram: Sendable, Equatable {
    /// Upper bounds in milliseconds: 1, 2, 3, 4, 6, 8, 12 … (two per doubling, up to an hour and more). One bucket follows for
    /// whatever is longer. The array in the table has one number per bucket, in this order.
    public static let bounds: [Int64] = {
        var bounds: [Int64] = [1]
        for exponent in 1..<23 { bounds += [1 << exponent, 3 << (exponent - 1)] }
        return bounds
    }()

    /// Events per bucket.
    public private(set) var counts: [Int32]

    public init() {
        counts = Array(repeating: 0, count: Self.bounds.count + 1)
    }

    /// From the table; nil if the array has another number of buckets.
    public init?(counts: [Int32]) {
        guard counts.count == Self.bounds.count + 1 else { return nil }
        self.counts = counts
    }

    public mutating func add(microseconds: Int64) {
        let milliseconds = (max(microseconds, 0) + 999) / 1000
        let bucket = Self.bucket(of: milliseconds)
        counts[bucket] = counts[bucket] == .max ? .max : counts[bucket] + 1
    }

    /// The first whose bound is not below it.
    private static func bucket(of milliseconds: Int64) -> Int {
        guard milliseconds > 1 else { return 0 }
        // 2^power < milliseconds <= 2^(power + 1)
        let power = Int64.bitWidth - 1 - (milliseconds - 1).leadingZeroBitCount
        let isInLowerHalf = power > 0 && milliseconds <= 3 << (power - 1)
        return min(isInLowerHalf ? 2 * power : 2 * power + 1, bounds.count)
    }

    public mutating func add(_ other: LagHistogram) {
        for (bucket, count) in other.counts.enumerated() { counts[bucket] = counts[bucket].addingSaturated(count) }
    }

    public var total: Int64 { counts.reduce(0) { $0 + Int64($1) } }

    /// The upper bound, in milliseconds, of the bucket that holds the quantile; nil without events or above the last bound.
    public func quantile(_ quantile: Double) -> Int64? {
        let rank = max(Int64((quantile * Double(total)).rounded(.up)), 1)
        var seen: Int64 = 0
        for (bucket, count) in counts.enumerated() where count > 0 {
            seen += Int64(count)
            if seen >= rank { return bucket < Self.bounds.count ? Self.bounds[bucket] : nil }
        }
        return nil
    }
}

extension Int32 {
    fileprivate func addingSaturated(_ other: Int32) -> Int32 {
        let (sum, overflow) = addingReportingOverflow(other)
        return overflow ? .max : sum
    }
}
