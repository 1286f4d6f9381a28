public import ReactionModel

/// How many rows of a table belong to a chunk, and the sum of their `MirrorTable.checksumColumn`, wrapping as ClickHouse's does.
public struct Tally: Equatable, Sendable {
    public var rows: Int64
    public var checksum: Int64
    /// Of a look at a cluster, which counts every row once: some are there twice.
    public var isDoubled = false
    /// Of a look at a cluster: some are a piece's that does not begin where the chunk does.
    public var isDivided = false

    public init(rows: Int64 = 0, checksum: Int64 = 0) {
        self.rows = rows
        self.checksum = checksum
    }

    mutating func add(_ value: Int64) {
        rows &+= 1
        checksum &+= value
    }
}

/// What the three tables hold of a chunk or a batch, in the order of `MirrorTable.allCases`.
public struct MirroredRows: Equatable, Sendable {
    private var tallies: [Tally]

    /// Nothing.
    public init() {
        tallies = MirrorTable.allCases.map { _ in Tally() }
    }

    /// From what `numbers` gave; nil if it is anything else.
    public init?(numbers: [Int64]) {
        guard numbers.count == MirrorTable.allCases.count &* 2 else { return nil }
        tallies = stride(from: 0, to: numbers.count, by: 2).map { Tally(rows: numbers[$0], checksum: numbers[$0 &+ 1]) }
    }

    /// Rows and checksum of each table.
    public var numbers: [Int64] { tallies.flatMap { [$0.rows, $0.checksum] } }

    public subscript(table: MirrorTable) -> Tally {
        get { zip(MirrorTable.allCases, tallies).first { $0.0 == table }?.1 ?? Tally() }
        set {
            for (index, other) in MirrorTable.allCases.enumerated() where other == table { tallies[index] = newValue }
        }
    }

    public mutating func add(_ other: MirroredRows) {
        for index in tallies.indices {
            tallies[index].rows &+= other.tallies[index].rows
            tallies[index].checksum &+= other.tallies[index].checksum
        }
    }
}

/// A chunk's rows for one table.
public struct EncodedRows: Sendable {
    public var bytes: [UInt8]
    public var tally: Tally
}

/// A chunk's rows for every table.
public struct EncodedChunk: Sendable {
    var reactionsByEntity: EncodedRows
    var reactionDeltas: EncodedRows
    var entityMetricEvents: EncodedRows

    public subscript(table: MirrorTable) -> EncodedRows {
        switch table {
        case .reactionsByEntity: reactionsByEntity
        case .reactionDeltas: reactionDeltas
        case .entityMetricEvents: entityMetricEvents
        }
    }
}

/// Makes the rows of a chunk in RowBinary, each table's in one buffer of the right size. The rows of the same events are the same bytes
/// at every attempt.
///
/// An event that changes nothing has no rows. A count that a chunk does not change in the end has no delta.
public struct ChunkEncoder {
    public enum Problem: Error, Equatable, Sendable {
        case unknownType(Version)
        /// A bit of the event's masks belongs to no kind of the type.
        case unknownKind(Version)
    }

    /// A type's texts, encoded once.
    private struct TypeRows {
        struct KindRows {
            var flag: Int32
            var metricType: [UInt8]
        }
        var typeID: Int16
        var entityType: [UInt8]
        var kinds: [KindRows]
        var flags: Int32
    }

    /// A change of one kind, as it is folded.
    private struct Delta {
        var entityID: Int64
        var delta: Int64
        /// Positions in `types` and in its `kinds`.
        var type: Int16
        var kind: Int16

        func isOfSameCount(as other: Delta) -> Bool {
            entityID == other.entityID && type == other.type && kind == other.kind
        }
    }

    /// What the rows will take.
    private struct Sizes {
        var byEntity = 0
        var changes = 0
        var changeRows = 0
    }

    /// Ids, masks, version, batch and part: everything but the texts and the time.
    private static let widthByEntity = 8 * 4 + 4 * 3
    private static let widthOfChange = 8 * 4 + 4 + 1
    private static let widthOfDelta = 8 * 3 + 4
    private static let widestTime = 8

    private let layout: MirrorLayout
    private let types: [TypeRows]

    public init(catalog: [Int16: EntityType], layout: MirrorLayout) {
        self.layout = layout
        self.types = catalog.sorted { $0.key < $1.key }.map { typeID, type in
            TypeRows(
                typeID: typeID, entityType: RowBinary.string(type.name),
                kinds: type.kinds.map { .init(flag: $0.flag, metricType: RowBinary.string($0.metricType)) },
                flags: type.kinds.reduce(0) { $0 | $1.flag })
        }
    }

    /// - Parameter events: of scope `reaction`, with their deltas known.
    public func encode(_ events: [Event], batch: BatchNumber, part: Int32) throws(Problem) -> EncodedChunk {
        let sizes = try sizes(of: events)
        var byEntityTally = Tally()
        let byEntity = RowBinary.bytes(capacity: sizes.byEntity) { rows in
            forEachChange(events) { event, type, _ in
                rows.append(encoded: types[type].entityType)
                rows.append(event.entityID)
                rows.append(event.userID)
                rows.append(event.setMask)
                rows.append(event.clearMask & ~event.setMask)
                rows.append(microseconds: event.createdAt, as: layout.byEntity)
                rows.append(event.version.rawValue)
                rows.append(batch.rawValue)
                rows.append(part)
                byEntityTally.add(event.version.rawValue)
            }
        }
        var changesTally = Tally()
        var deltas: [Delta] = []
        deltas.reserveCapacity(sizes.changeRows)
        let changes = RowBinary.bytes(capacity: sizes.changes) { rows in
            forEachChange(events) { event, type, changed in
                for kind in types[type].kinds.indices where changed & types[type].kinds[kind].flag != 0 {
                    let value: Int8 = event.setMask & types[type].kinds[kind].flag != 0 ? 1 : -1
                    rows.append(encoded: types[type].entityType)
                    rows.append(event.entityID)
                    rows.append(event.userID)
                    rows.append(encoded: types[type].kinds[kind].metricType)
                    rows.append(value)
                    rows.append(microseconds: event.createdAt, as: layout.events)
                    rows.append(event.version.rawValue)
                    rows.append(batch.rawValue)
                    rows.append(part)
                    changesTally.add(event.version.rawValue)
                    deltas.append(
                        Delta(
                            entityID: event.entityID, delta: Int64(value), type: Int16(truncatingIfNeeded: type),
                            kind: Int16(truncatingIfNeeded: kind)))
                }
            }
        }
        fold(&deltas)
        return EncodedChunk(
            reactionsByEntity: EncodedRows(bytes: byEntity, tally: byEntityTally),
            reactionDeltas: encode(deltas, batch: batch, part: part),
            entityMetricEvents: EncodedRows(bytes: changes, tally: changesTally))
    }

    /// Checks that every event has a row for each of its bits, too.
    private func sizes(of events: [Event]) throws(Problem) -> Sizes {
        var sizes = Sizes()
        var type = types.startIndex
        for event in events {
            guard find(event.typeID, &type) else { throw .unknownType(event.version) }
            let changed = event.setMask | event.clearMask
            guard changed & ~types[type].flags == 0 else { throw .unknownKind(event.version) }
            guard changed != 0 else { continue }
            sizes.byEntity &+= Self.widthByEntity &+ Self.widestTime &+ types[type].entityType.count
            for kind in types[type].kinds.indices where changed & types[type].kinds[kind].flag != 0 {
                sizes.changeRows &+= 1
                sizes.changes &+= Self.widthOfChange &+ Self.widestTime &+ types[type].entityType.count
                sizes.changes &+= types[type].kinds[kind].metricType.count
            }
        }
        return sizes
    }

    /// - Parameter body: takes the event, the position of its type, and the bits it changes: at least one.
    private func forEachChange(_ events: [Event], _ body: (borrowing Event, Int, Int32) -> Void) {
        var type = types.startIndex
        for event in events {
            let changed = event.setMask | event.clearMask
            guard changed != 0, find(event.typeID, &type) else { continue }
            body(event, type, changed)
        }
    }

    /// Most events are of the type of the one before.
    private func find(_ typeID: Int16, _ position: inout Int) -> Bool {
        if position < types.count, types[position].typeID == typeID { return true }
        guard let found = types.firstIndex(where: { $0.typeID == typeID }) else { return false }
        position = found
        return true
    }

    /// Leaves one delta for each count that changes, in the order of the table's key.
    private func fold(_ deltas: inout [Delta]) {
        deltas.sort { ($0.type, $0.entityID, $0.kind) < ($1.type, $1.entityID, $1.kind) }
        var end = 0
        for position in deltas.indices {
            if end > 0, deltas[end - 1].isOfSameCount(as: deltas[position]) {
                deltas[end - 1].delta &+= deltas[position].delta
            } else {
                if end > 0, deltas[end - 1].delta == 0 { end -= 1 }
                deltas[end] = deltas[position]
                end += 1
            }
        }
        if end > 0, deltas[end - 1].delta == 0 { end -= 1 }
        deltas.removeLast(deltas.count - end)
    }

    private func encode(_ deltas: [Delta], batch: BatchNumber, part: Int32) -> EncodedRows {
        var tally = Tally()
        let widestText = types.reduce(0) { widest, type in
            max(widest, type.entityType.count &+ (type.kinds.map(\.metricType.count).max() ?? 0))
        }
        let bytes = RowBinary.bytes(capacity: deltas.count &* (Self.widthOfDelta &+ widestText)) { rows in
            for delta in deltas {
                let type = types[Int(delta.type)]
                rows.append(encoded: type.entityType)
                rows.append(delta.entityID)
                rows.append(encoded: type.kinds[Int(delta.kind)].metricType)
                rows.append(delta.delta)
                rows.append(batch.rawValue)
                rows.append(part)
                tally.add(delta.delta)
            }
        }
        return EncodedRows(bytes: bytes, tally: tally)
    }
}
