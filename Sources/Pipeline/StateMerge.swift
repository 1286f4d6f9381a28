public import ClickHouseStore

/// Names a reaction of one type.
public struct MatchKey: Hashable, Comparable, Sendable {
    public var userID: Int64
    public var entityID: Int64

    public init(userID: Int64, entityID: Int64) {
        self.userID = userID
        self.entityID = entityID
    }

    public static func < (left: MatchKey, right: MatchKey) -> Bool {
        (left.userID, left.entityID) < (right.userID, right.entityID)
    }
}

/// A reaction as the table has it.
public struct TableState: Equatable, Sendable {
    public var key: MatchKey
    public var flags: Int32

    public init(key: MatchKey, flags: Int32) {
        self.key = key
        self.flags = flags
    }
}

extension MatchQuery.State {
    public var key: MatchKey { MatchKey(userID: userID, entityID: entityID) }
}

/// Walks through two sequences in the order of (user, entity), which arrive in pieces, and finds the reactions on which they are apart.
///
/// The two are read at different moments, so what is found is a candidate and not yet a difference.
public struct StateMerge: Sendable {
    public enum Need: Equatable, Sendable {
        /// The next piece of the table.
        case table
        /// The next piece of ClickHouse's answer.
        case mirror
        case nothing
    }

    private var table = Piece<TableState>()
    private var mirror = Piece<MatchQuery.State>()
    /// Reactions that were looked at, on either side.
    public private(set) var compared: Int64 = 0
    private var candidates: [MatchKey] = []

    public init() {}

    /// - Parameter states: none at the end.
    public mutating func tableRead(_ states: [TableState]) {
        table = Piece(states)
    }

    public mutating func mirrorRead(_ states: [MatchQuery.State]) {
        mirror = Piece(states)
    }

    /// The candidates found so far, which are forgotten.
    public mutating func takeCandidates() -> [MatchKey] {
        defer { candidates = [] }
        return candidates
    }

    /// Goes on as far as both sides reach.
    public mutating func compare() -> Need {
        while true {
            if table.isToBeRead { return .table }
            if mirror.isToBeRead { return .mirror }
            switch (table.first, mirror.first) {
            case (nil, nil): return .nothing
            case (let left?, nil):
                candidates.append(left.key)
                table.next += 1
            case (nil, let right?):
                candidates.append(right.key)
                mirror.next += 1
            case (let left?, let right?):
                let (isLeft, isRight) = (left.key <= right.key, right.key <= left.key)
                if !isLeft || !isRight || left.flags != right.flags || right.wrongSums != 0 {
                    candidates.append(isLeft ? left.key : right.key)
                }
                if isLeft { table.next += 1 }
                if isRight { mirror.next += 1 }
            }
            compared += 1
        }
    }

    private struct Piece<State: Sendable>: Sendable {
        private var states: [State] = []
        private var isAtEnd = false
        var next = 0

        init() {}

        init(_ states: [State]) {
            self.states = states
            isAtEnd = states.isEmpty
        }

        var first: State? { next < states.count ? states[next] : nil }
        var isToBeRead: Bool { next == states.count && !isAtEnd }
    }
}
