public import ReactionModel

/// What a read of a user map found.
public struct UserMapReading {
    /// What breaks the shape that a user map has.
    public enum Problem: Error {
        /// The server answered with an error; its text is at the reply's position.
        case serverError
        case unexpectedShape
    }

    /// Stands for flags that the map does not know.
    public static let unknown: Int32 = -1

    /// Nil: the map is absent.
    public private(set) var marker: UserMapMarker?
    /// Of a read by ids: the flags in the order of the ids. Of a whole map: those of `entityIDs`.
    public private(set) var flags: [Int32] = []
    /// Of a whole map only.
    public private(set) var entityIDs: [Int64] = []
    /// How many of `flags` are unknown.
    public private(set) var unknownCount = 0

    /// Every id unknown.
    public init(unknown count: Int) {
        flags = Array(repeating: Self.unknown, count: count)
        unknownCount = count
    }

    /// The reply to `HMGET map _ id…`.
    public init(fields count: Int, of replies: ReplyArena, at position: Int, stamp: Stamp) throws(Problem) {
        guard try Self.arrayCount(replies, position) == count &+ 1 else { throw .unexpectedShape }
        flags.reserveCapacity(count)
        if case .text(let range) = replies[position &+ 1] { marker = .init(replies.cursor(range), stamp: stamp) }
        let absent = absentFlags
        try replies.withTexts { texts throws(Problem) in
            for index in 0..<count {
                switch replies[position &+ 2 &+ index] {
                case .text(let range): add(marker == nil ? nil : UserMapField.flags(texts[range]))
                case .null: add(absent)
                default: throw .unexpectedShape
                }
            }
        }
    }

    /// The reply to `HGETALL map`, of which only `ids` are wanted.
    public init(ids: [Int64], of replies: ReplyArena, at position: Int, stamp: Stamp) throws(Problem) {
        let whole = try Self(wholeMapOf: replies, at: position, stamp: stamp)
        let known = Dictionary(zip(whole.entityIDs, whole.flags), uniquingKeysWith: { first, _ in first })
        marker = whole.marker
        flags.reserveCapacity(ids.count)
        let absent = absentFlags
        for id in ids { add(known[id] ?? absent) }
    }

    /// The reply to `HGETALL map`. Entities without a reaction are left out.
    public init(wholeMapOf replies: ReplyArena, at position: Int, stamp: Stamp) throws(Problem) {
        let count = try Self.arrayCount(replies, position)
        guard count.isMultiple(of: 2) else { throw .unexpectedShape }
        flags.reserveCapacity(count / 2)
        entityIDs.reserveCapacity(count / 2)
        try replies.withTexts { texts throws(Problem) in
            for name in stride(from: position &+ 1, to: position &+ 1 &+ count, by: 2) {
                guard case .text(let nameRange) = replies[name], case .text(let range) = replies[name &+ 1] else {
                    throw .unexpectedShape
                }
                if let id = UserMapField.entityID(texts[nameRange]) {
                    entityIDs.append(id)
                    add(UserMapField.flags(texts[range]))
                } else if replies.text(at: name).elementsEqual("_".utf8) {
                    marker = .init(replies.cursor(range), stamp: stamp)
                } else {
                    throw .unexpectedShape
                }
            }
        }
        if marker == nil { self = .init(unknown: 0) }
    }

    /// The ids whose flags are unknown, of a read by ids.
    public func unknownIDs(of ids: [Int64]) -> [Int64] {
        zip(ids, flags).compactMap { id, flags in flags == Self.unknown ? id : nil }
    }

    private var absentFlags: Int32? { marker?.state == .complete ? 0 : nil }

    private mutating func add(_ known: Int32?) {
        flags.append(known ?? Self.unknown)
        if known == nil || known == Self.unknown { unknownCount += 1 }
    }

    private static func arrayCount(_ replies: ReplyArena, _ position: Int) throws(Problem) -> Int {
        switch replies[position] {
        case .array(let count): return count
        case .error: throw .serverError
        default: throw .unexpectedShape
        }
    }
}
