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

/// The marker of an entity's counts, field `_`: `<stamp>:<nonce>:<tier>:<batch>:<part>:<built>`, the numbers in base 36.
///
/// No marker is longer than `longest`: with a longer value Redis makes the hash a table of more than twice the size
/// (`hash-max-listpack-value`).
public struct EntityMarker: Equatable, Sendable {
    public static let field: StaticString = "_"
    public static let longest = 64

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
        let marker = cursor.withRest { text in
            Self.parsed(text, stamp: stamp).map { (Array(text[Self.noncePlace]), $0) }
        }
        guard let (nonce, parsed) = marker else { return nil }
        self.init(nonce: nonce, tier: parsed.tier, counted: parsed.counted, builtAt: parsed.builtAt)
    }

    /// The tier in a marker, read in place: a page has a hundred of them.
    static func tier(_ text: UnsafeRawBufferPointer, stamp: Stamp) -> EntityTier? {
        parsed(text, stamp: stamp)?.tier
    }

    private static let radix: Int64 = 36
    private static let noncePlace = 17..<33
    private static let tierPlace = 34
    private static let numbersPlace = 36

    private static func parsed(
        _ text: UnsafeRawBufferPointer, stamp: Stamp
    ) -> (tier: EntityTier, counted: CountedChunk, builtAt: Int64)? {
        let colon = UInt8(ascii: ":")
        guard text.count > numbersPlace, text.prefix(16).elementsEqual(stamp.digits), text[16] == colon,
            !text[noncePlace].contains(colon), text[33] == colon, let tier = EntityTier(rawValue: text[tierPlace]),
            text[35] == colon,
            let batch = number(text, at: numbersPlace), batch.end < text.count, text[batch.end] == colon,
            let part = number(text, at: batch.end &+ 1), part.end < text.count, text[part.end] == colon,
            let builtAt = number(text, at: part.end &+ 1), builtAt.end == text.count,
            let position = Int32(exactly: part.value)
        else { return nil }
        let counted = CountedChunk(batch: BatchNumber(rawValue: batch.value), part: position)
        return (tier, counted, builtAt.value)
    }

    /// One or more digits whose number fits, and where they end.
    private static func number(_ text: UnsafeRawBufferPointer, at start: Int) -> (value: Int64, end: Int)? {
        var number: Int64 = 0
        var end = start
        while end < text.count, let digit = digit(text[end]) {
            let (shifted, overflows) = number.multipliedReportingOverflow(by: radix)
            let (sum, carries) = shifted.addingReportingOverflow(digit)
            guard !overflows, !carries else { return nil }
            number = sum
            end &+= 1
        }
        return end > start ? (number, end) : nil
    }

    private static func digit(_ byte: UInt8) -> Int64? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): Int64(byte &- UInt8(ascii: "0"))
        case UInt8(ascii: "a")...UInt8(ascii: "z"): Int64(byte &- UInt8(ascii: "a")) &+ 10
        default: nil
        }
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
            text += String(number, radix: Int(Self.radix)).utf8
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
