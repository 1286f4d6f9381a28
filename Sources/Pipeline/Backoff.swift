/// Delays between attempts: doubling, with jitter so that several agents and lanes do not knock in step.
public struct Backoff: Sendable {
    /// The delay after the first failure.
    public static let first: Duration = .milliseconds(100)

    let limit: Duration
    /// A number in 0 ..< 1 for each delay.
    let jitter: @Sendable () -> Double
    public private(set) var failures = 0

    public init(limit: Duration, jitter: @escaping @Sendable () -> Double = { .random(in: 0..<1) }) {
        self.limit = limit
        self.jitter = jitter
    }

    public mutating func succeeded() {
        failures = 0
    }

    /// - Parameter slowly: whether only an operator can help, so that the limit applies at once.
    public mutating func failed(slowly: Bool = false) -> Duration {
        failures += 1
        let delay = slowly ? limit : min(limit, Self.first * (1 << min(failures - 1, 20)))
        return delay * (0.5 + jitter() / 2)
    }
}
