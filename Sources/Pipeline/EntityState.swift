public import ReactionModel
public import RedisStore

/// Counts of an entity and who has reacted, as Redis holds them; how they change. No I/O.
///
/// The list holds everybody, or everybody at or above its floor. As long as it is complete it tells the flags that a user had before.
/// With a floor they are known of exclusive types, whose events tell all of them; of others they are given by `asked`. Whoever is in
/// doubt is not in the list, above whom the floor is then raised, and makes the number of users unknown.
public struct EntityState: Equatable, Sendable {
    /// Something that a state made of all events cannot be.
    public struct Fault: Error, Equatable {
        public init() {}
    }

    /// Reactors of a sample.
    public static let sampleSize = 1_000

    public var tier: EntityTier
    /// By the positions of the kinds' bits.
    public var counts: [Int64]
    /// Users with any kind; nil if that is not known.
    public var users: Int64?
    /// Descending by position.
    public var reactors: [Reactor]
    /// Nil: the list is complete.
    public var floor: ReactionPosition?

    /// A complete list tells everything.
    public init(tier: EntityTier, allFlags: Int32, reactors: [Reactor]) {
        self.tier = tier
        self.counts = .counts(of: allFlags)
        self.reactors = reactors
        for reactor in reactors { counts.add(1, to: reactor.flags & allFlags) }
        users = Int64(reactors.count)
        trim()
    }

    public init(
        tier: EntityTier, counts: [Int64], users: Int64?, reactors: [Reactor], floor: ReactionPosition?
    ) {
        self.tier = tier
        self.counts = counts
        self.users = users
        self.reactors = reactors
        self.floor = floor
        trim()
    }

    /// Sum of the kinds' counts.
    public var total: Int64 { counts.reduce(0, +) }

    /// The users whose flags before the change have to be asked: those who may get into the sample, newest first. (An older one cannot:
    /// so many newer ones are in it.)
    public func usersToAsk(_ change: EntityChange) -> [Int64] {
        inDoubt(change).prefix(Self.sampleSize).map(\.userID)
    }

    /// Whose flags before the change neither it nor the list tells; newest first.
    private func inDoubt(_ change: EntityChange) -> [ReactionPosition] {
        guard let floor, change.users.contains(where: { !$0.isWhole }) else { return [] }
        let listed = Set(reactors.map(\.position.userID))
        return change.users.filter { !$0.isWhole && $0.position >= floor && !listed.contains($0.position.userID) }
            .map(\.position).sorted(by: >)
    }

    /// - Parameter asked: the flags before the change of `usersToAsk`; 0 if absent.
    public mutating func apply(_ change: EntityChange, asked: [Int64: Int32] = [:]) throws(Fault) {
        for (index, delta) in change.deltas.enumerated() where delta != 0 {
            guard counts.indices.contains(index) else { throw Fault() }
            counts[index] += delta
            guard counts[index] >= 0 else { throw Fault() }
        }
        let doubtful = inDoubt(change)
        let toAsk = Set(doubtful.prefix(Self.sampleSize).map(\.userID))
        let raisedFloor = doubtful.count > Self.sampleSize ? doubtful[Self.sampleSize - 1] : floor

        if floor == nil { users = Int64(reactors.count) }
        let (kept, listed) = split(by: change.users)
        var next = listed.startIndex
        // With one more than a sample it shows that the list is cut.
        var changed = Newest(limit: tier == .viral ? Self.sampleSize + 1 : .max)
        for (index, user) in change.users.enumerated() {
            let userID = user.position.userID
            var reactor: Reactor?
            if next < listed.endIndex, listed[next].index == index {
                reactor = listed[next].reactor
                next += 1
            }
            let before: Int32? =
                if let reactor {
                    reactor.flags
                } else if floor == nil {
                    0
                } else if user.isWhole {
                    user.before
                } else if toAsk.contains(userID) {
                    asked[userID] ?? 0
                } else {
                    nil
                }
            guard let before else {
                // One of the kinds that it speaks of was set before, another is now: the user was counted and still is.
                if user.before == 0 || user.after == 0 { users = nil }
                continue
            }
            let after = before & ~user.touched | user.after
            if let users { self.users = users + (after != 0 ? 1 : 0) - (before != 0 ? 1 : 0) }
            guard after != 0 else { continue }
            changed.add(Reactor(position: max(reactor?.position ?? user.position, user.position), flags: after))
        }
        reactors = Self.merged(kept, changed.sorted())
        if let raisedFloor {
            floor = raisedFloor
            reactors.removeAll { $0.position < raisedFloor }
        }
        if let users, users < 0 { throw Fault() }
        trim()
    }

    /// Those whom a change does not touch, in order; and those whom it does, ascending by their index in the change.
    ///
    /// - Parameter users: ascending.
    private func split(by users: [UserChange]) -> (kept: [Reactor], listed: [(index: Int, reactor: Reactor)]) {
        var kept: [Reactor] = []
        kept.reserveCapacity(reactors.count)
        var listed: [(index: Int, reactor: Reactor)] = []
        for reactor in reactors {
            let index = users.firstIndex(from: reactor.position.userID)
            if index < users.endIndex, users[index].position.userID == reactor.position.userID {
                listed.append((index, reactor))
            } else {
                kept.append(reactor)
            }
        }
        listed.sort { $0.index < $1.index }
        return (kept, listed)
    }

    /// Only the newest are kept from now on.
    public mutating func promote() {
        tier = .viral
        trim()
    }

    private mutating func trim() {
        guard tier == .viral, reactors.count > Self.sampleSize else { return }
        reactors.removeLast(reactors.count - Self.sampleSize)
        floor = reactors.last?.position
    }

    private static func merged(_ left: [Reactor], _ right: [Reactor]) -> [Reactor] {
        guard !right.isEmpty else { return left }
        var merged: [Reactor] = []
        merged.reserveCapacity(left.count + right.count)
        var next = 0
        for reactor in left {
            while next < right.count, right[next].position > reactor.position {
                merged.append(right[next])
                next += 1
            }
            merged.append(reactor)
        }
        merged += right[next...]
        return merged
    }
}

extension [UserChange] {
    /// Of users in ascending order, the first one at or above the user.
    fileprivate func firstIndex(from userID: Int64) -> Int {
        var low = startIndex
        var high = endIndex
        while low < high {
            let middle = low + (high - low) / 2
            if self[middle].position.userID < userID { low = middle + 1 } else { high = middle }
        }
        return low
    }
}

/// The newest of the reactors that are added: of a chunk with a hundred thousand of one entity few can get into its sample.
private struct Newest {
    let limit: Int
    private var reactors: [Reactor] = []
    /// As many as the limit are newer.
    private var bound: ReactionPosition?

    init(limit: Int) {
        self.limit = limit
    }

    mutating func add(_ reactor: Reactor) {
        if let bound, reactor.position < bound { return }
        reactors.append(reactor)
        if reactors.count / 4 >= limit { cut() }
    }

    private mutating func cut() {
        reactors.sort { $0.position > $1.position }
        guard reactors.count > limit else { return }
        reactors.removeLast(reactors.count - limit)
        bound = reactors.last?.position
    }

    /// Descending by position.
    mutating func sorted() -> [Reactor] {
        cut()
        return reactors
    }
}
