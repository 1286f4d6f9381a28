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

    /// A packed list, of which only the header was read.
    public struct List: Equatable, Sendable {
        /// Nil if it is no list of the entity's life.
        public var header: ReactionList?
        /// Users; nil if its length is not that of whole records.
        public var count: Int?
    }

    /// More fields than counts have with the most kinds a type can have.
    public static let mostFields = 64

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

    /// A list as it is by its length and header; after the fields.
    public func list(length: Int64, header: [UInt8]) -> List {
        guard let nonce = marker?.nonce else { return List() }
        return List(
            header: ReactionList(header[...], nonce: nonce),
            count: ReactionList.count(header: header[...], length: Int(length)))
    }
}
