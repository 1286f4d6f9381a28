/// The number of an event. Higher wins, per (type, user, entity, kind), in every store.
///
/// `generation · 2^44 + sequence`. The generation belongs to one (system identifier, timeline) of PostgreSQL and stays below 512, so
/// that every version is exact in a Lua number (2^53).
public struct Version: RawRepresentable, Hashable, Comparable, Sendable {
    public static let sequenceBits: Int64 = 44
    public static let maximumGeneration: Int64 = 511

    public var rawValue: Int64

    public init(rawValue: Int64) {
        self.rawValue = rawValue
    }

    /// Fails on a generation or a sequence number that does not fit.
    public init?(generation: Int64, sequence: Int64) {
        guard (0...Self.maximumGeneration).contains(generation), sequence >= 0, sequence < 1 << Self.sequenceBits else {
            return nil
        }
        self.rawValue = generation << Self.sequenceBits | sequence
    }

    public static let zero = Version(rawValue: 0)

    public var generation: Int64 { rawValue >> Self.sequenceBits }
    public var sequence: Int64 { rawValue & (1 << Self.sequenceBits - 1) }

    public static func < (left: Version, right: Version) -> Bool { left.rawValue < right.rawValue }
}

/// The number of a batch: the generation in the upper bits, as in a version, and a running number.
public struct BatchNumber: RawRepresentable, Hashable, Comparable, Sendable {
    public var rawValue: Int64

    public init(rawValue: Int64) {
        self.rawValue = rawValue
    }

    public static func < (left: BatchNumber, right: BatchNumber) -> Bool { left.rawValue < right.rawValue }
}
