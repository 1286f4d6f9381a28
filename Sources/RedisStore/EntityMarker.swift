public import ReactionModel

/// How an entity is kept in Redis.
public enum EntityTier: UInt8, Sendable {
    /// `r`: counts and everybody who has reacted.
    case regular = 0x72
    /// `v`: counts and the newest of those who have reacted.
    case viral = 0x76
}

/// The place of a chunk in the order in which chunks are counted.
public struct CountedChunk: Hashable, Comparable, Sendable {
    public var batch: BatchNumber
    /// Position of the chunk's first event within the batch.
    public var part: Int32

    public init(batch: BatchNumber, part: Int32) {
        self.batch = batch
        self.part = part
    }

    public static func < (left: CountedChunk, right: CountedChunk) -> Bool {
        (left.batch, left.part) < (right.batch, right.part)
    }
}

/// The marker of an entity's counts, field `_`: `<stamp>:<nonce>:<tier>:<batch>:<part>:<built>`.
public struct EntityMarker: Equatable, Sendable {
    public static let field: StaticString = "_"

    /// 16 hexadecimal digits, of this life of the entity's keys.
    public var nonce: [UInt8]
    public var tier: EntityTier
    /// The last chunk that is in the counts.
    public var counted: CountedChunk
    /// Unix seconds.
    public var builtAt: Int64

    public init(nonce: [UInt8], tier: EntityTier, counted: CountedChunk, builtAt: Int64) {
        self.nonce = nonce
        self.tier = tier
        self.counted = counted
        self.builtAt = builtAt
    }

    /// Nil if the marker cannot be read or was made under another stamp: the entity is absent.
    public init?(_ cursor: ByteCursor, stamp: Stamp) {
        var cursor = cursor
        let colon = UInt8(ascii: ":")
        guard cursor.take(upTo: colon).elementsEqual(stamp.digits) else { return nil }
        let nonce = cursor.take(upTo: colon)
        guard nonce.count == 16, let tier = cursor.next().flatMap(EntityTier.init), cursor.skip(colon),
            let batch = cursor.decimal(), cursor.skip(colon), let part = cursor.decimal(), cursor.skip(colon),
            let builtAt = cursor.decimal(), cursor.isAtEnd
        else { return nil }
        self.nonce = Array(nonce)
        self.tier = tier
        self.counted = CountedChunk(
            batch: BatchNumber(rawValue: batch), part: Int32(truncatingIfNeeded: part))
        self.builtAt = builtAt
    }

    public func text(stamp: Stamp) -> [UInt8] {
        var text = stamp.digits
        let colon = UInt8(ascii: ":")
        text.append(colon)
        text += nonce
        text.append(colon)
        text.append(tier.rawValue)
        for number in [counted.batch.rawValue, Int64(counted.part), builtAt] {
            text.append(colon)
            text.appendDecimal(number)
        }
        return text
    }
}

/// The fields of an entity's counts besides the marker and the kinds, which may not have these names.
public enum EntityField {
    /// Sum of the kinds' counts.
    public static let total: StaticString = "total"
    /// Users who have any kind; absent if that is not known.
    public static let users: StaticString = "users"
    /// Since when and why the entity is in its tier: `<unix seconds>:<reason>`.
    public static let tier: StaticString = "_tier"
}
