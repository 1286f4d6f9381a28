public import ReactionModel

/// What reads of entities' counts found: a number for each entity and each field that was asked for.
///
/// An entity is known as a whole or not at all: without a marker of the stamp, or with a field that is no number, it is missed. So is one
/// whose key is of another type, since that is not ours.
///
/// A kind without a field is one that was added later, and nobody has reacted with it: the agent knows every kind of an event before
/// it counts or installs it, and writes a field for each kind that it knows.
public struct EntityCountsReading {
    /// A reply that no read of counts can have.
    public struct UnexpectedShape: Error {}

    /// Stands for a number that is not known.
    public static let unknown: Int64 = -1

    private let fields: Int
    /// What a field is that is not there; nil: unknown.
    private let absent: Int64?
    /// Entity by entity, its fields in the order in which they were asked for.
    public private(set) var numbers: [Int64]
    /// Nil for an entity that Redis does not have.
    public private(set) var tiers: [EntityTier?]
    /// Positions of the entities that are not known, ascending.
    public private(set) var missed: [Int] = []

    /// Nothing is known.
    public init(entities: Int, fields: Int, absent: Int64?) {
        self.fields = fields
        self.absent = absent
        numbers = Array(repeating: Self.unknown, count: entities &* fields)
        tiers = Array(repeating: nil, count: entities)
        missed = Array(0..<entities)
    }

    /// Takes the replies to an `HMGET counts _ field…` for each entity that was missed so far, in their order.
    ///
    /// - Parameters:
    ///   - position: of the first reply.
    ///   - stamp: of the Redis that has answered a command, by the command's number.
    public mutating func add(
        _ replies: ReplyArena, at position: Int, stamp: (_ command: Int) -> Stamp
    ) throws(UnexpectedShape) {
        let asked = missed
        missed.removeAll(keepingCapacity: true)
        try replies.withTexts { texts throws(UnexpectedShape) in
            var position = position
            for (command, entity) in asked.enumerated() {
                // It may be gone since it was read before.
                tiers[entity] = nil
                switch replies[position] {
                case .array(fields &+ 1):
                    if !read(replies, at: position &+ 1, texts, of: entity, stamp(command)) { missed.append(entity) }
                    position &+= fields &+ 2
                case .error:
                    guard replies.error(at: position)?.starts(with: "WRONGTYPE".utf8) == true else {
                        throw UnexpectedShape()
                    }
                    missed.append(entity)
                    position &+= 1
                default:
                    throw UnexpectedShape()
                }
            }
        }
    }

    private mutating func read(
        _ replies: ReplyArena, at position: Int, _ texts: UnsafeRawBufferPointer, of entity: Int, _ stamp: Stamp
    ) -> Bool {
        guard case .text(let marker) = replies[position],
            let tier = EntityMarker.tier(UnsafeRawBufferPointer(rebasing: texts[marker]), stamp: stamp)
        else { return false }
        tiers[entity] = tier
        let first = entity &* fields
        for field in 0..<fields {
            let number =
                switch replies[position &+ 1 &+ field] {
                case .text(let range): Self.number(UnsafeRawBufferPointer(rebasing: texts[range]))
                case .null: absent
                default: nil as Int64?
                }
            guard let number else { return false }
            numbers[first &+ field] = number
        }
        return true
    }

    private static func number(_ text: UnsafeRawBufferPointer) -> Int64? {
        var number: Int64 = 0
        for byte in text {
            let digit = byte &- UInt8(ascii: "0")
            guard digit < 10 else { return nil }
            let (tenfold, overflows) = number.multipliedReportingOverflow(by: 10)
            let (sum, carries) = tenfold.addingReportingOverflow(Int64(digit))
            guard !overflows, !carries else { return nil }
            number = sum
        }
        return text.isEmpty ? nil : number
    }

    /// Puts in what the truth says of an entity that was missed.
    ///
    /// - Parameter numbers: as many as there are fields.
    public mutating func learn(_ numbers: some Collection<Int64>, of entity: Int) {
        let first = entity &* fields
        guard tiers.indices.contains(entity) else { return }
        for (field, number) in numbers.prefix(fields).enumerated() { self.numbers[first &+ field] = number }
    }
}

extension CommandBuffer {
    /// The arguments of `HMGET` behind the key: the marker and the fields.
    public static func countsArguments(_ fields: [String]) -> [UInt8] {
        var arguments = CommandBuffer()
        arguments.append(EntityMarker.field)
        for field in fields { arguments.append(field.utf8) }
        return arguments.bytes
    }

    /// - Parameter arguments: what `countsArguments` has made of `fields` fields.
    public mutating func appendReadCounts(of key: [UInt8], fields: Int, arguments: [UInt8]) {
        begin("HMGET", arguments: fields &+ 2)
        append(key: key)
        append(formatted: arguments)
    }
}
