/// Which range of a table is read next, and when: lanes take ranges from here until none is left.
///
/// Times are those of a monotonic clock; nothing here waits.
public struct TableReading: Sendable {
    public enum Action: Equatable, Sendable {
        /// - Parameter isFirst: nobody has sent the range before, so there is no need to look for it in ClickHouse.
        case read(range: Int, isFirst: Bool)
        /// Ask again at this moment.
        case wait(until: Duration)
        /// No range is left to be begun.
        case finish
    }

    public struct Limits: Sendable {
        /// The mirror goes first: while its oldest event waits longer, no range is begun.
        public var longestLag: Duration
        /// Over all lanes, on average over a few ranges; nil for no limit.
        public var rowsPerSecond: Int?

        public init(longestLag: Duration, rowsPerSecond: Int?) {
            self.longestLag = longestLag
            self.rowsPerSecond = rowsPerSecond
        }
    }

    private enum Progress: UInt8 {
        /// Can transition to: busy.
        case untried
        /// Sent, perhaps by another process, and not known to be confirmed. Can transition to: busy.
        case tried
        /// A lane has it. Can transition to: tried, confirmed.
        case busy
        /// Can transition to: tried, when ClickHouse has started anew.
        case confirmed
    }

    /// Between two looks at a mirror that lags.
    static let pause: Duration = .milliseconds(500)

    private let limits: Limits
    private var ranges: [Progress]
    /// No range below it is left to be begun.
    private var next = 0
    /// When the rows that were read so far are within the limit.
    private var paidUntil: Duration = .zero
    public private(set) var isThrottled = false

    public init(ranges: Int, confirmed: [Int], tried: [Int], limits: Limits) {
        self.limits = limits
        self.ranges = Array(repeating: .untried, count: ranges)
        for range in tried where self.ranges.indices.contains(range) { self.ranges[range] = .tried }
        for range in confirmed where self.ranges.indices.contains(range) { self.ranges[range] = .confirmed }
    }

    /// - Parameter lag: of the mirror.
    public mutating func begin(lag: Duration, now: Duration) -> Action {
        while next < ranges.count, ranges[next] == .confirmed || ranges[next] == .busy { next += 1 }
        guard next < ranges.count else { return .finish }
        isThrottled = lag > limits.longestLag
        if isThrottled { return .wait(until: now + Self.pause) }
        if paidUntil > now { return .wait(until: paidUntil) }
        let isFirst = ranges[next] == .untried
        ranges[next] = .busy
        defer { next += 1 }
        return .read(range: next, isFirst: isFirst)
    }

    public mutating func rangeConfirmed(_ range: Int, rows: Int, now: Duration) {
        ranges[range] = .confirmed
        guard let rowsPerSecond = limits.rowsPerSecond else { return }
        paidUntil = max(paidUntil, now) + .seconds(1) * rows / rowsPerSecond
    }

    /// It is tried again, by whichever lane comes next.
    public mutating func rangeFailed(_ range: Int) {
        ranges[range] = .tried
        next = min(next, range)
    }

    /// ClickHouse may have lost these, or any that it confirmed.
    public mutating func distrust() {
        for range in ranges.indices where ranges[range] == .confirmed { ranges[range] = .tried }
        next = 0
    }

    public var isComplete: Bool { ranges.allSatisfy { $0 == .confirmed } }
}
