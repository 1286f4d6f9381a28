public import ReactionModel

/// What there is of an entity in Redis at one moment, whoever has written it (`entity_look.lua`).
public struct EntityLook: Equatable, Sendable {
    /// Positions in `KeySpace.entitySuffixes`.
    public enum Part: Int, CaseIterable, Sendable {
        case counts
        case total
        case viral
        case reactions
        case sample

        /// Redis's name of what it is.
        public var type: String { self == .counts ? "hash" : "string" }
    }

    /// A packed list.
    public struct List: Equatable, Sendable {
        /// Without reactors unless these were asked for; nil if it is no list of the entity's life.
        public var list: ReactionList?
        /// Users; nil if its length is not that of whole records.
        public var count: Int?
        /// Users by the positions of the kinds' bits; nil of a list that is too long to be read.
        public var counts: [Int64]?

        public init(list: ReactionList? = nil, count: Int? = nil, counts: [Int64]? = nil) {
            self.list = list
            self.count = count
            self.counts = counts
        }
    }

    /// More fields than counts have with the most kinds a type can have.
    public static let mostFields = 64
    /// Lists up to 52,000 users are read, which takes Redis a few milliseconds.
    public static let mostBytes = 1 << 20

    /// Seconds since somebody has read or written the counts; nil if Redis does not tell.
    public var idle: Int64?
    /// Milliseconds that the counts have to live; nil if they live for ever.
    public var timeToLive: Int64?
    /// Keys that are there.
    public var present: Set<Part> = []
    /// Keys that are of another type than the entity's.
    public var wrong: Set<Part> = []
    /// `<stamp>:<nonce>:<tier>:` of the marker, whatever it is worth; empty without one. The scripts compare it.
    public var life: [UInt8] = []
    /// Nil if there is none of the stamp.
    public var marker: EntityMarker?
    /// Every other field of the counts whose name does not begin with an underscore.
    public var fields: [String: String] = [:]
    public var total = ""
    public var flag = ""
    public var reactions = List()
    public var sample = List()

    public init() {}

    /// Takes a field of the counts.
    public mutating func add(_ name: String, _ value: [UInt8], _ stamp: Stamp) {
        if name == "_" {
            marker = EntityMarker(ByteCursor(value), stamp: stamp)
            var colons = 0
            let end = value.firstIndex { byte in
                if byte == UInt8(ascii: ":") { colons &+= 1 }
                return colons == 3
            }
            life = end.map { Array(value[...$0]) } ?? []
        } else if !name.utf8.starts(with: "_".utf8) {
            fields[name] = String(decoding: value, as: UTF8.self)
        }
    }

    /// A list of which `bytes` were read; after the fields.
    ///
    /// - Parameter tally: how often a byte is at a place of the records' flags, the first of which is 1: place, byte, times, and so on.
    public func list(length: Int64, bytes: [UInt8], tally: [Int64]) -> List {
        guard let nonce = marker?.nonce else { return List() }
        let header = bytes.prefix(ReactionList.headerWidth)
        var list = List(
            list: ReactionList(bytes[...], nonce: nonce),
            count: ReactionList.count(header: header, length: Int(length)))
        if length <= Int64(Self.mostBytes), let width = header.dropFirst().first {
            list.counts = Self.counts(tally, width: Int64(width))
        }
        return list
    }

    private static func counts(_ tally: [Int64], width: Int64) -> [Int64] {
        var counts: [Int64] = Array(repeating: 0, count: 32)
        for start in stride(from: 0, to: tally.count &- 2, by: 3) {
            let lowest = (width &- tally[start]) &* 8
            guard (0...24).contains(lowest) else { continue }
            for bit in 0..<8 where tally[start &+ 1] & 1 << Int64(bit) != 0 {
                counts[Int(lowest) &+ bit] &+= tally[start &+ 2]
            }
        }
        return counts
    }
}
