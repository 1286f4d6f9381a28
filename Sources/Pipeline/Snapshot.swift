/// PostgreSQL's `pg_snapshot`: which top-level transactions had completed.
public struct Snapshot: Hashable, Sendable {
    /// Every transaction below it had completed.
    public var xmin: UInt64
    /// No transaction at or above it had completed.
    public var xmax: UInt64
    /// The transactions in between that had not, ascending.
    public var inProgress: [UInt64]

    public init(xmin: UInt64, xmax: UInt64, inProgress: [UInt64] = []) {
        self.xmin = xmin
        self.xmax = xmax
        self.inProgress = inProgress
    }

    /// From PostgreSQL's text, `xmin:xmax:xid,xid,…`.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 3, let xmin = UInt64(parts[0]), let xmax = UInt64(parts[1]), xmin <= xmax else {
            return nil
        }
        let numbers = parts[2].split(separator: ",")
        let inProgress = numbers.compactMap { UInt64($0) }
        guard inProgress.count == numbers.count else { return nil }
        self.init(xmin: xmin, xmax: xmax, inProgress: inProgress)
    }

    public var text: String { "\(xmin):\(xmax):\(inProgress.map(String.init).joined(separator: ","))" }

    /// The same moment, blind to transactions at or above `xid`.
    public func cut(at xid: UInt64) -> Snapshot {
        guard xid < xmax else { return self }
        return Snapshot(xmin: min(xmin, xid), xmax: xid, inProgress: inProgress.filter { $0 < xid })
    }
}
