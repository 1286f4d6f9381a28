public import ReactionModel

/// Whose a key of Redis is, by its name.
public enum KeyOwner: Equatable, Sendable {
    case entity(typeID: Int16, id: Int64, part: EntityLook.Part)
    case userMap(typeID: Int16, id: Int64)
    /// The watermark of a shard, or the wanted entities or compared reads of a type; and what Redis calls it.
    case ours(typeID: Int16, type: String)
    /// The same of a type, or a shard, that does not exist.
    case orphan
    /// Nothing that this database makes, nor has made.
    case unknown
}

/// Knows the keys of a database by their names. A key is what `KeySpace` makes of a number that is in it: no other code takes names apart.
public struct KeyOwners: Sendable {
    private let keys: KeySpace
    private let types: [EntityType]
    private let ownNames: [[UInt8]: KeyOwner]
    private let ownPrefixes: [[UInt8]]

    public init(keys: KeySpace, types: [EntityType]) {
        self.keys = keys
        self.types = types
        var names: [[UInt8]: KeyOwner] = [:]
        for type in types {
            names[keys.wanted(of: type.name)] = .ours(typeID: type.typeID, type: "zset")
            names[keys.comparedReads(of: type.name)] = .ours(typeID: type.typeID, type: "list")
            for shard in 0..<max(type.shardCount, 1) {
                names[keys.applied(of: type.name, shard: shard)] = .ours(typeID: type.typeID, type: "string")
            }
        }
        ownNames = names
        ownPrefixes = [keys.wanted(of: ""), keys.comparedReads(of: ""), keys.appliedPrefix]
    }

    public func owner(of key: [UInt8]) -> KeyOwner {
        if let owner = ownNames[key] { return owner }
        let numbers = Self.numbers(in: key)
        for (part, suffix) in zip(EntityLook.Part.allCases, KeySpace.entitySuffixes) where Self.has(key, suffix) {
            for type in types {
                for id in numbers
                where keys.key(type.entityKey, id: id, shardCount: type.shardCount, suffix: suffix) == key {
                    return .entity(typeID: type.typeID, id: id, part: part)
                }
            }
        }
        for type in types {
            for id in numbers where keys.key(type.userMapKey, id: id, shardCount: type.shardCount) == key {
                return .userMap(typeID: type.typeID, id: id)
            }
        }
        return ownPrefixes.contains { key.starts(with: $0) } ? .orphan : .unknown
    }

    private static func has(_ key: [UInt8], _ suffix: StaticString) -> Bool {
        suffix.withUTF8Buffer { key.suffix($0.count).elementsEqual($0) }
    }

    /// Every run of digits as a number, with the minus sign before it and without.
    private static func numbers(in key: [UInt8]) -> [Int64] {
        var numbers: [Int64] = []
        var start = key.startIndex
        while let first = key[start...].firstIndex(where: isDigit) {
            let end = key[first...].firstIndex { !isDigit($0) } ?? key.endIndex
            let digits = String(decoding: key[first..<end], as: UTF8.self)
            numbers += ["", "-"].compactMap { Int64($0 + digits) }
            start = end
        }
        return numbers
    }

    private static func isDigit(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    }
}
