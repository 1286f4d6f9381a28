public import ReactionModel
public import RedisStore

/// Who has reacted to an entity, by ClickHouse.
public struct ReactorTruth: Equatable, Sendable {
    public var reactors: [Reactor]
    /// Nobody at or above it is left out; nil: nobody at all.
    public var floor: ReactionPosition?

    public init(reactors: [Reactor], floor: ReactionPosition? = nil) {
        self.reactors = reactors
        self.floor = floor
    }

    /// What is wrong with a list, or a sample, that should be of the same moment; nil if nothing.
    public func fault(of list: ReactionList) -> (fault: CacheFault, detail: String)? {
        if let problem = Self.disorder(list) ?? difference(from: list) { return (.drift, problem) }
        let whole = min(reactors.count, EntityState.sampleSize)
        // By what would come of building it anew: where most users have taken it back there are no more.
        if list.floor != nil, list.reactors.count < whole / 2 {
            return (.shrunkSample, "\(list.reactors.count) users of \(whole)")
        }
        return nil
    }

    private static func disorder(_ list: ReactionList) -> String? {
        for (reactor, next) in zip(list.reactors, list.reactors.dropFirst())
        where next.position >= reactor.position {
            return "user \(next.position.userID) behind user \(reactor.position.userID), who is older"
        }
        if let floor = list.floor, let last = list.reactors.last, last.position < floor {
            return "user \(last.position.userID) below the floor"
        }
        return nil
    }

    private func difference(from list: ReactionList) -> String? {
        let bound = [list.floor, floor].compactMap(\.self).max()
        func flags(_ reactors: [Reactor]) -> [Int64: Int32] {
            let told = reactors.filter { reactor in bound.map { reactor.position >= $0 } ?? true }
            return Dictionary(told.map { ($0.position.userID, $0.flags) }, uniquingKeysWith: |)
        }
        let (found, expected) = (flags(list.reactors), flags(reactors))
        let users = Set(found.keys).union(expected.keys).filter { found[$0] != expected[$0] }
        guard let user = users.min() else { return nil }
        return """
            user \(user) with flags \(found[user] ?? 0), ClickHouse \(expected[user] ?? 0)\
            \(users.count > 1 ? ", and \(users.count - 1) more users" : "")
            """
    }
}
