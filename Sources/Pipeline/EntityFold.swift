public import ReactionModel

/// What a chunk did to one user's reaction on one entity.
public struct UserChange: Equatable, Sendable {
    /// Of the newest event.
    public var position: ReactionPosition
    /// Kinds that changed, possibly back and forth.
    public var touched: Int32
    /// Those of them that were set before.
    public var before: Int32
    /// Those of them that are set now.
    public var after: Int32
    /// No other kind is set, nor was.
    public var isWhole: Bool

    public init(position: ReactionPosition, touched: Int32, before: Int32, after: Int32, isWhole: Bool) {
        self.position = position
        self.touched = touched
        self.before = before
        self.after = after
        self.isWhole = isWhole
    }
}

/// What a chunk did to one entity.
public struct EntityChange: Equatable, Sendable {
    public var typeID: Int16
    public var entityID: Int64
    /// By the position of the kind's bit.
    public var deltas: [Int64]
    /// Ascending by user.
    public var users: [UserChange]
    /// Events that changed something, and the time of the newest one's write in microseconds since 1970-01-01 UTC.
    public var events: Int
    public var writtenAt: Int64

    /// Changes of users whose kinds changed once each.
    public init(typeID: Int16, entityID: Int64, users: [UserChange], allFlags: Int32, writtenAt: Int64) {
        self.typeID = typeID
        self.entityID = entityID
        self.users = users
        self.writtenAt = writtenAt
        events = users.count
        deltas = .counts(of: allFlags)
        for user in users {
            deltas.add(1, to: user.after & ~user.before & allFlags)
            deltas.add(-1, to: user.before & ~user.after & allFlags)
        }
    }
}

/// Where an event goes in the order of a fold.
private struct FoldKey {
    var entityID: Int64
    var userID: Int64
    var position: Int32
    var typeID: Int16
}

extension [Event] {
    /// What the events did, by type and entity; both ascending.
    ///
    /// - Parameters:
    ///   - self: of scope `reaction`, in version order, with their deltas known.
    ///   - catalog: entities of types that are not counted are left out, and so are bits that belong to no kind.
    public func folded(_ catalog: [Int16: EntityType]) -> [EntityChange] {
        let flags = catalog.filter { $0.value.isCounted }.mapValues { (all: $0.allFlags, mode: $0.mode) }
        var keys: [FoldKey] = []
        keys.reserveCapacity(count)
        for (position, event) in enumerated() {
            guard event.scope == .reaction, let type = flags[event.typeID],
                (event.setMask | event.clearMask) & type.all != 0
            else { continue }
            keys.append(
                FoldKey(
                    entityID: event.entityID, userID: event.userID, position: Int32(truncatingIfNeeded: position),
                    typeID: event.typeID))
        }
        keys.sort {
            ($0.typeID, $0.entityID, $0.userID, $0.position) < ($1.typeID, $1.entityID, $1.userID, $1.position)
        }
        var changes: [EntityChange] = []
        var change: EntityChange?
        for key in keys {
            guard let type = flags[key.typeID] else { continue }
            if change?.entityID != key.entityID || change?.typeID != key.typeID {
                if let change { changes.append(change) }
                change = EntityChange(
                    typeID: key.typeID, entityID: key.entityID, users: [], allFlags: type.all, writtenAt: .min)
            }
            change?.add(self[Int(key.position)], type.all, type.mode)
        }
        if let change { changes.append(change) }
        return changes
    }
}

extension EntityChange {
    /// - Parameter event: by the same user as the event before or by one behind.
    fileprivate mutating func add(_ event: Event, _ all: Int32, _ mode: Mode) {
        let set = event.setMask & all
        let clear = event.clearMask & all & ~event.setMask
        deltas.add(1, to: set)
        deltas.add(-1, to: clear)
        events += 1
        writtenAt = Swift.max(writtenAt, event.writtenAt)
        let position = ReactionPosition(
            version: event.version, createdAt: event.createdAt, userID: event.userID)
        if let last = users.last, last.position.userID == event.userID {
            let index = users.count - 1
            let first = (set | clear) & ~last.touched
            users[index].position = Swift.max(last.position, position)
            users[index].touched |= set | clear
            users[index].before |= clear & first
            users[index].after = last.after & ~clear | set
        } else {
            users.append(
                UserChange(
                    position: position, touched: set | clear, before: clear, after: set, isWhole: mode == .exclusive))
        }
    }
}

extension EntityType {
    /// The bits of all kinds.
    public var allFlags: Int32 { kinds.reduce(0) { $0 | $1.flag } }
}

/// Counts by the positions of bits.
extension [Int64] {
    /// Zero for each bit up to the highest of `flags`.
    public static func counts(of flags: Int32) -> [Int64] {
        Array(repeating: 0, count: flags == 0 ? 0 : 32 - flags.leadingZeroBitCount)
    }

    /// Adds to each kind of `mask`.
    mutating func add(_ value: Int64, to mask: Int32) {
        var rest = mask
        while rest != 0 {
            self[rest.trailingZeroBitCount] += value
            rest &= rest - 1
        }
    }
}
