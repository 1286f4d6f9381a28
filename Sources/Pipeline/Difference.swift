public import ClickHouseStore

/// What is wrong with a reaction on which table and ClickHouse are apart.
public enum DifferenceClass: String, CaseIterable, Codable, Sendable {
    /// The table has kinds that ClickHouse has not.
    case missing
    /// ClickHouse has kinds that the table has not.
    case phantom
    /// Both.
    case different
    /// The states agree, and the sum of values is another.
    case sums
    /// The table refused the reaction when what it had missed was written back: known, and no fault.
    case policy
    /// Gone from the table since it was closed, by an event that ClickHouse has: no fault.
    case explained

    /// Whether somebody has to do something.
    public var isFault: Bool { self != .policy && self != .explained }
    /// Whether an event with the table's flags makes ClickHouse agree.
    public var isRepairable: Bool { self == .missing || self == .phantom || self == .different }
}

/// A reaction on which table and ClickHouse are apart, beyond doubt.
public struct Difference: Equatable, Sendable {
    public var key: MatchKey
    public var inTable: Int32
    public var inClickHouse: Int32
    public var reason: DifferenceClass

    /// Nil if they agree.
    /// - Parameter isRefused: the table refused to take it back.
    public init?(key: MatchKey, inTable: Int32, inClickHouse state: MatchQuery.State?, isRefused: Bool = false) {
        let flags = state?.flags ?? 0
        let (lacks, has) = (inTable & ~flags, flags & ~inTable)
        self.key = key
        self.inTable = inTable
        inClickHouse = flags
        switch (lacks, has) {
        case (0, 0):
            guard let state, state.wrongSums != 0 else { return nil }
            reason = .sums
        case (0, _) where has & ~(state?.goneLater ?? 0) == 0: reason = .explained
        case _ where isRefused: reason = .policy
        case (0, _): reason = .phantom
        case (_, 0): reason = .missing
        default: reason = .different
        }
    }
}
