/// The text of a Redis key with placeholders `<user>`, `<entity>` and `<shard>`.
///
/// The one maker of Redis keys. `<shard>` is the id modulo the type's shard count, never negative.
public struct KeyTemplate: Hashable, Sendable {
    enum Piece: Hashable, Sendable {
        case literal([UInt8])
        case id
        case shard
    }

    public let text: String
    let pieces: [Piece]

    /// What is wrong with a template, as constant text for an error's detail.
    public enum Problem: String, Error {
        case empty = "The template is empty."
        case tooLong = "The template is longer than 200 bytes."
        case idMissing = "The template does not contain the placeholder of the id."
        case unknownPlaceholder = "The template contains a placeholder other than <user>, <entity> and <shard>."
        case invalidCharacter = "The template contains a space, a control character, a brace or a byte outside ASCII."
    }

    /// - Parameter required: the placeholder of the id, `<user>` or `<entity>`.
    public init(_ text: String, required: String) throws(Problem) {
        let bytes = Array(text.utf8)
        guard !bytes.isEmpty else { throw .empty }
        guard bytes.count <= 200 else { throw .tooLong }
        var pieces: [Piece] = []
        var literal: [UInt8] = []
        var index = 0
        while index < bytes.count {
            let byte = bytes[index]
            guard byte > 0x20, byte < 0x7f, byte != UInt8(ascii: "{"), byte != UInt8(ascii: "}") else {
                throw .invalidCharacter
            }
            guard byte == UInt8(ascii: "<") else {
                literal.append(byte)
                index += 1
                continue
            }
            guard let end = bytes[index...].firstIndex(of: UInt8(ascii: ">")) else { throw .unknownPlaceholder }
            let placeholder = bytes[index...end]
            if !literal.isEmpty { pieces.append(.literal(literal)) }
            literal = []
            if placeholder.elementsEqual(required.utf8) {
                pieces.append(.id)
            } else if placeholder.elementsEqual("<shard>".utf8) {
                pieces.append(.shard)
            } else {
                throw .unknownPlaceholder
            }
            index = end + 1
        }
        if !literal.isEmpty { pieces.append(.literal(literal)) }
        guard pieces.contains(.id) else { throw .idMissing }
        self.text = text
        self.pieces = pieces
    }

    /// Appends the key of `id`, as ASCII, to `out`.
    public func append(id: Int64, shardCount: Int32, to out: inout [UInt8]) {
        for piece in pieces {
            switch piece {
            case .literal(let bytes): out.append(contentsOf: bytes)
            case .id: out.appendDecimal(id)
            case .shard: out.appendDecimal(Int64(Self.shard(of: id, count: shardCount)))
            }
        }
    }

    /// The same with the shard as a hash tag: `{7}` for 7, and `{7}:` in front if the template does not have the shard.
    public func append(taggedID id: Int64, shardCount: Int32, to out: inout [UInt8]) {
        let shard = Self.shard(of: id, count: shardCount)
        if !pieces.contains(.shard) {
            out.append(shard: shard, isTag: true)
            out.append(UInt8(ascii: ":"))
        }
        for piece in pieces {
            switch piece {
            case .literal(let bytes): out.append(contentsOf: bytes)
            case .id: out.appendDecimal(id)
            case .shard: out.append(shard: shard, isTag: true)
            }
        }
    }

    /// `id` modulo `count`, in `0 ..< count`; 0 for a count below 1.
    public static func shard(of id: Int64, count: Int32) -> Int32 {
        guard count > 0 else { return 0 }
        let remainder = id % Int64(count)
        return Int32(truncatingIfNeeded: remainder < 0 ? remainder + Int64(count) : remainder)
    }

    /// The template with placeholders and runs of digits and minus signs folded to `#`: two templates that could render to one key
    /// have one shape. (Different templates may share a shape without ever colliding; they are refused as well.)
    public var shape: [UInt8] {
        var shape: [UInt8] = []
        func fold() {
            if shape.last != UInt8(ascii: "#") { shape.append(UInt8(ascii: "#")) }
        }
        for piece in pieces {
            guard case .literal(let bytes) = piece else {
                fold()
                continue
            }
            for byte in bytes {
                let isNumber = byte == UInt8(ascii: "-") || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
                if isNumber { fold() } else { shape.append(byte) }
            }
        }
        return shape
    }
}

/// Writes the decimal digits of `value` so that they end before `end`, and returns where they start: at most 20 bytes earlier.
///
/// Safe because: the caller has at least 20 bytes before `end`; a number has 19 digits at most, and a sign.
public func writeDecimal(_ value: Int64, endingAt end: Int, of bytes: UnsafeMutableRawBufferPointer) -> Int {
    var start = end
    var magnitude = value.magnitude
    repeat {
        start &-= 1
        bytes[start] = UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: magnitude % 10)
        magnitude /= 10
    } while magnitude > 0
    if value < 0 {
        start &-= 1
        bytes[start] = UInt8(ascii: "-")
    }
    return start
}

extension [UInt8] {
    /// Appends the number of a shard, in braces if a cluster is to go by it.
    public mutating func append(shard: Int32, isTag: Bool) {
        if isTag { append(UInt8(ascii: "{")) }
        appendDecimal(Int64(shard))
        if isTag { append(UInt8(ascii: "}")) }
    }

    /// Appends the decimal digits of `value`.
    public mutating func appendDecimal(_ value: Int64) {
        withUnsafeTemporaryAllocation(byteCount: 20, alignment: 1) { scratch in
            let start = writeDecimal(value, endingAt: scratch.count, of: scratch)
            append(contentsOf: UnsafeRawBufferPointer(rebasing: scratch[start...]))
        }
    }
}
