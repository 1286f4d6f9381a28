public import ReactionModel

/// The digests under which Redis knows the loaded scripts.
public struct ScriptDigests {
    public var miss: [UInt8] = []
    public var fill: [UInt8] = []
    public var apply: [UInt8] = []
    public var touch: [UInt8] = []

    public init() {}
}

/// One user's map of one type, as the commands on it name it.
public struct UserMapAddress {
    public var key: [UInt8]
    public var stamp: Stamp

    public init(key: [UInt8], stamp: Stamp) {
        self.key = key
        self.stamp = stamp
    }
}

extension CommandBuffer {
    public mutating func appendReadFields(_ ids: [Int64], of key: [UInt8]) {
        reserve(64 &+ key.count &+ ids.count &* 16)
        begin("HMGET", arguments: ids.count &+ 2)
        append(key: key)
        append(UserMapMarker.field)
        for id in ids { append(id) }
    }

    public mutating func appendReadWholeMap(of key: [UInt8]) {
        begin("HGETALL", arguments: 1)
        append(key: key)
    }

    public mutating func appendMiss(
        _ map: UserMapAddress, digest: [UInt8], nonce: [UInt8], ttl: Int32, maximumAge: Int32, leaseMilliseconds: Int64,
        limit: Int32
    ) {
        beginScript(digest, key: map.key, arguments: 6)
        append(map.stamp.digits)
        append(nonce)
        append(Int64(ttl))
        append(Int64(maximumAge))
        append(leaseMilliseconds)
        append(Int64(limit))
    }

    /// Begins a fill with `fields` fields, which the caller appends.
    public mutating func beginFill(
        _ map: UserMapAddress, digest: [UInt8], nonce: [UInt8], floor: Int64, state: UserMapState, fields: Int
    ) {
        beginScript(digest, key: map.key, arguments: fields &* 2 &+ 4)
        append(map.stamp.digits)
        append(nonce)
        append(floor)
        append(CollectionOfOne(state.rawValue))
    }

    /// Begins an apply of `events` events, which the caller appends.
    public mutating func beginApply(_ map: UserMapAddress, digest: [UInt8], events: Int) {
        beginScript(digest, key: map.key, arguments: events &* 4 &+ 1)
        append(map.stamp.digits)
    }

    public mutating func appendEvent(entityID: Int64, setMask: Int32, clearMask: Int32, version: Int64) {
        append(entityID)
        append(Int64(setMask))
        append(Int64(clearMask))
        append(version)
    }

    public mutating func appendTouch(
        _ map: UserMapAddress, digest: [UInt8], nonce: [UInt8], ttl: Int32, maximumAge: Int32
    ) {
        beginScript(digest, key: map.key, arguments: 4)
        append(map.stamp.digits)
        append(nonce)
        append(Int64(ttl))
        append(Int64(maximumAge))
    }
}

/// The answer of `user_map_miss`.
public struct UserMapMissAnswer: Equatable, Sendable {
    public var nonce: [UInt8]
    public var state: UserMapState
    /// Whether the caller is the one who fills.
    public var isGranted: Bool

    /// Nil if the reply has another shape.
    public init?(_ replies: ReplyArena, at position: Int) {
        guard case .array(3) = replies[position], case .text(let stateRange) = replies[position &+ 2],
            case .integer(let granted) = replies[position &+ 3]
        else { return nil }
        let nonce = replies.text(at: position &+ 1)
        var cursor = replies.cursor(stateRange)
        guard nonce.count == 16, let state = cursor.next().flatMap(UserMapState.init), cursor.isAtEnd else {
            return nil
        }
        self.nonce = Array(nonce)
        self.state = state
        self.isGranted = granted == 1
    }
}
