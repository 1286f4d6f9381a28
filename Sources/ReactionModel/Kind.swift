/// A kind of reaction and its bit.
public struct Kind: Hashable, Sendable {
    /// "Like". ClickHouse's metricType is `Reaction` followed by it.
    public var name: String
    /// A power of two, at most 2^30.
    public var flag: Int32

    public init(name: String, flag: Int32) {
        self.name = name
        self.flag = flag
    }

    public var metricType: String { "Reaction" + name }
}

extension Int32 {
    /// The flags after an event: a bit in both masks ends set.
    public func applying(setMask: Int32, clearMask: Int32) -> Int32 {
        self & ~clearMask | setMask
    }
}
