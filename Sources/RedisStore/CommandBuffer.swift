import ReactionModel

/// Commands in Redis's wire protocol, one after the other in one buffer.
///
/// Each command is begun with the number of its arguments, so that nothing is written twice and nothing is allocated per argument.
/// Where a command begins, and by which key a cluster routes it, is noted with it.
public struct CommandBuffer: Sendable {
    public private(set) var bytes: [UInt8] = []
    private var places: [Place] = []

    private struct Place: Sendable {
        /// Where the command begins in `bytes`.
        var start: Int
        /// Its first key; empty until one is appended.
        var key = 0..<0
    }

    public init() {}

    /// How many replies the commands will get.
    public var commandCount: Int { places.count }

    /// Drops the commands and keeps the memory.
    public mutating func removeAll() {
        bytes.removeAll(keepingCapacity: true)
        places.removeAll(keepingCapacity: true)
    }

    /// Begins a command of `name` and `arguments` more arguments, which the caller appends.
    public mutating func begin(_ name: StaticString, arguments: Int) {
        places.append(Place(start: bytes.count))
        bytes.append(UInt8(ascii: "*"))
        bytes.appendDecimal(Int64(arguments &+ 1))
        endLine()
        name.withUTF8Buffer { append($0) }
    }

    /// Begins the call of a loaded script on one key, with `arguments` more arguments.
    public mutating func beginScript(_ digest: [UInt8], key: [UInt8], arguments: Int) {
        beginScript(digest, keys: 1, arguments: arguments)
        append(key: key)
    }

    /// Begins the call of a loaded script. The caller appends the keys, all of one slot, and then the arguments.
    public mutating func beginScript(_ digest: [UInt8], keys: Int, arguments: Int) {
        begin("EVALSHA", arguments: keys &+ arguments &+ 2)
        append(digest)
        append(Int64(keys))
    }

    /// Appends a key. A cluster routes the command by the first one; all of a command are of one slot.
    public mutating func append(key: [UInt8]) {
        append(key)
        guard let last = places.indices.last, places[last].key.isEmpty else { return }
        let end = bytes.count &- 2
        places[last].key = end &- key.count..<end
    }

    public mutating func append(_ argument: some Collection<UInt8>) {
        bytes.append(UInt8(ascii: "$"))
        bytes.appendDecimal(Int64(argument.count))
        endLine()
        bytes.append(contentsOf: argument)
        endLine()
    }

    public mutating func append(_ argument: StaticString) {
        argument.withUTF8Buffer { append($0) }
    }

    /// Appends arguments that another buffer has formatted.
    public mutating func append(formatted arguments: [UInt8]) {
        bytes.append(contentsOf: arguments)
    }

    /// Makes room for what is known to come.
    public mutating func reserve(_ count: Int) {
        bytes.reserveCapacity(bytes.count &+ count)
    }

    public mutating func append(_ number: Int64) {
        // From the end to the start, as numbers are written: a read appends hundreds of them.
        withUnsafeTemporaryAllocation(byteCount: 48, alignment: 1) { scratch in
            func endLine(before end: Int) -> Int {
                scratch[end &- 1] = UInt8(ascii: "\n")
                scratch[end &- 2] = UInt8(ascii: "\r")
                return end &- 2
            }
            let end = endLine(before: scratch.count)
            var start = writeDecimal(number, endingAt: end, of: scratch)
            let length = end &- start
            start = writeDecimal(Int64(length), endingAt: endLine(before: start), of: scratch) &- 1
            scratch[start] = UInt8(ascii: "$")
            bytes.append(contentsOf: UnsafeRawBufferPointer(rebasing: scratch[start...]))
        }
    }

    /// Appends the commands of another buffer.
    public mutating func append(commandsOf other: CommandBuffer) {
        for command in other.places.indices { note(command, of: other, shift: bytes.count) }
        bytes.append(contentsOf: other.bytes)
    }

    // MARK: Routing

    /// The slot of a command's first key; nil without a key, which any server may answer.
    public func slot(of command: Int) -> Int? {
        guard places.indices.contains(command), !places[command].key.isEmpty else { return nil }
        return ClusterSlots.slot(of: bytes[places[command].key])
    }

    /// Appends one command of another buffer.
    public mutating func append(_ command: Int, of other: CommandBuffer) {
        guard other.places.indices.contains(command) else { return }
        let range = other.range(of: command)
        note(command, of: other, shift: bytes.count &- range.lowerBound)
        bytes.append(contentsOf: other.bytes[range])
    }

    private mutating func note(_ command: Int, of other: CommandBuffer, shift: Int) {
        let place = other.places[command]
        let key = place.key.isEmpty ? place.key : place.key.lowerBound &+ shift..<place.key.upperBound &+ shift
        places.append(Place(start: place.start &+ shift, key: key))
    }

    private func range(of command: Int) -> Range<Int> {
        let next = command &+ 1
        return places[command].start..<(next < places.count ? places[next].start : bytes.count)
    }

    private mutating func endLine() {
        bytes.append(UInt8(ascii: "\r"))
        bytes.append(UInt8(ascii: "\n"))
    }
}
