/// Which server of a Redis Cluster has which of the 16,384 slots, as far as is known.
///
/// It may be out of date at any time: a server that was asked for a slot that it does not have says who has (`Redirection`).
public struct ClusterSlots: Sendable {
    public static let count = 16_384

    /// Servers that have slots, in the order in which they became known.
    public private(set) var owners: [RedisPlace] = []
    /// Positions in `owners`, by slot.
    private var positions = [UInt16](repeating: unknown, count: count)
    private static let unknown = UInt16.max

    public init() {}

    /// Who has the slot; nil if nobody is known to.
    public subscript(slot: Int) -> RedisPlace? {
        guard positions.indices.contains(slot) else { return nil }
        let position = Int(positions[slot])
        return owners.indices.contains(position) ? owners[position] : nil
    }

    /// How many slots nobody is known to have.
    public var unknownCount: Int {
        positions.reduce(0) { $0 + ($1 == Self.unknown ? 1 : 0) }
    }

    /// Notes who has the slots. What lies outside of the cluster's slots is left out.
    public mutating func assign(_ slots: ClosedRange<Int>, to place: RedisPlace) {
        let slots = slots.clamped(to: 0...Self.count &- 1)
        let known = owners.firstIndex(of: place)
        let position = known ?? owners.count
        guard let number = UInt16(exactly: position), number != Self.unknown else { return }
        if known == nil { owners.append(place) }
        for slot in slots { positions[slot] = number }
    }

    /// The servers that have slots now.
    public var masters: [RedisPlace] {
        let present = Set(positions)
        return owners.indices.filter { present.contains(UInt16(truncatingIfNeeded: $0)) }.map { owners[$0] }
    }

    /// The slot of a key: of what is between its first brace and the next closing one, if there is anything.
    public static func slot(of key: ArraySlice<UInt8>) -> Int {
        var hashed = key
        if let open = key.firstIndex(of: UInt8(ascii: "{")) {
            let tag = key[key.index(after: open)...].prefix { $0 != UInt8(ascii: "}") }
            if !tag.isEmpty, tag.endIndex < key.endIndex { hashed = tag }
        }
        return hashed.withUnsafeBufferPointer { Int(crc16($0)) } % count
    }

    /// CRC-16 in the form of XMODEM: polynomial 0x1021, begun with 0.
    private static func crc16(_ bytes: UnsafeBufferPointer<UInt8>) -> UInt16 {
        table.withUnsafeBufferPointer { table in
            bytes.reduce(0) { crc, byte in
                (crc &<< 8) ^ table[Int((crc &>> 8) ^ UInt16(byte))]
            }
        }
    }

    private static let table: [UInt16] = (0..<256).map { index in
        (0..<8).reduce(UInt16(index) &<< 8) { crc, _ in
            crc & 0x8000 == 0 ? crc &<< 1 : (crc &<< 1) ^ 0x1021
        }
    }
}

/// What a server of a cluster answers instead of the reply.
public enum Redirection: Equatable, Sendable {
    /// `MOVED`: another server has the slot.
    case moved(slot: Int, to: RedisPlace)
    /// `ASK`: the slot is on its way, and the key, if it is anywhere, at another server; to be asked there this once.
    case ask(RedisPlace)
    /// `TRYAGAIN`: of the keys of the command some are here and some are there.
    case tryAgain

    /// Nil if the error is another one. An empty host is the one that was asked.
    public init?(_ error: some Collection<UInt8>, from asked: RedisPlace) {
        let words = error.split(separator: UInt8(ascii: " ")).map { String(decoding: $0, as: UTF8.self) }
        switch words.first {
        case "TRYAGAIN": self = .tryAgain
        case "MOVED", "ASK":
            guard words.count == 3, let slot = Int(words[1]), slot >= 0, slot < ClusterSlots.count,
                let colon = words[2].lastIndex(of: ":"), let port = UInt16(words[2][words[2].index(after: colon)...]),
                let place = RedisPlace.announced(host: String(words[2][..<colon]), port: port, by: asked)
            else { return nil }
            self = words[0] == "MOVED" ? .moved(slot: slot, to: place) : .ask(place)
        default: return nil
        }
    }
}
