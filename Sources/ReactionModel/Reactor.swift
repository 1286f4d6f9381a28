/// Where a reaction stands among those on its entity: the newest event decides, then the time, then the user. Rows of a backfill share
/// a version, so among them the time does.
public struct ReactionPosition: Hashable, Comparable, Sendable {
    /// Of the user's newest event on the entity.
    public var version: Version
    /// Unix seconds.
    public var time: UInt32
    public var userID: Int64

    /// 2105-12-31 23:59:59: what old servers of ClickHouse can hold and print.
    public static let latestTime: UInt32 = 4_291_747_199

    public init(version: Version, time: UInt32, userID: Int64) {
        self.version = version
        self.time = time
        self.userID = userID
    }

    /// - Parameter createdAt: microseconds since 1970-01-01 UTC.
    public init(version: Version, createdAt: Int64, userID: Int64) {
        self.init(
            version: version, time: min(UInt32(clamping: createdAt / 1_000_000), Self.latestTime), userID: userID)
    }

    public static func < (left: ReactionPosition, right: ReactionPosition) -> Bool {
        (left.version, left.time, left.userID) < (right.version, right.time, right.userID)
    }
}

/// A user who has reacted, with all of the kinds.
public struct Reactor: Equatable, Sendable {
    public var position: ReactionPosition
    public var flags: Int32

    public init(position: ReactionPosition, flags: Int32) {
        self.position = position
        self.flags = flags
    }
}
