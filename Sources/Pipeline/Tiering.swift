internal import Glibc
public import ReactionModel
public import RedisStore

/// When an entity becomes viral, and when it ceases to be. Sizes are totals: the sum of the kinds' counts, which is always known.
public struct Tiering: Sendable {
    /// Why an entity is in its tier; told in its field `_tier`.
    public enum Reason: String, Sendable {
        /// Too few reactions for more.
        case few
        /// It has as many as make an entity viral.
        case many
        /// At its rate it will have as many within the horizon.
        case rate
    }

    /// How long an entity stays viral at least.
    public var dwell: Duration
    /// How far a rate is trusted; zero: not at all.
    public var horizon: Duration

    public init(dwell: Duration = .seconds(600), horizon: Duration = .seconds(60)) {
        self.dwell = dwell
        self.horizon = horizon
    }

    /// The tier that an entity has from now on.
    ///
    /// - Parameters:
    ///   - tier: its tier; nil if it is built anew.
    ///   - rate: reactions per second.
    ///   - age: how long it has been in its tier.
    public func decide(
        _ tier: EntityTier?, of type: EntityType, total: Int64, rate: Double, for age: Duration
    ) -> (tier: EntityTier, reason: Reason) {
        let expected = Double(total) + max(rate, 0) * (horizon / .seconds(1))
        if total >= type.viralThreshold { return (.viral, .many) }
        if expected >= Double(type.viralThreshold) { return (.viral, .rate) }
        if tier == .viral, total >= type.regularThreshold || age < dwell { return (.viral, .many) }
        return (.regular, .few)
    }
}

/// Reactions per second of one entity, by the times of their writes: a backlog that is worked off is no rush.
public struct RateMeter: Sendable {
    /// Seconds after which an event weighs e times less.
    static let memory = 30.0

    public private(set) var rate = 0.0
    /// Microseconds since 1970-01-01 UTC.
    public private(set) var time: Int64

    public init(time: Int64) {
        self.time = time
    }

    public mutating func add(_ events: Int, at time: Int64) {
        let elapsed = Double(max(time - self.time, 0)) / 1_000_000
        self.time = max(self.time, time)
        rate = rate(after: elapsed) + Double(events) / Self.memory
    }

    /// The rate at a later time.
    public func rate(at time: Int64) -> Double {
        rate(after: Double(max(time - self.time, 0)) / 1_000_000)
    }

    private func rate(after elapsed: Double) -> Double { rate * exp(-elapsed / Self.memory) }
}
