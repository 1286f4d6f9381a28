public import ReactionModel

/// How many rows of a table belong to a chunk, and the sum of their `MirrorTable.checksumColumn`, wrapping as ClickHouse's does.
public struct Tally: Equatable, Sendable {
    public var rows: Int64
    public var checksum: Int64

    public init(rows: Int64 = 0, checksum: Int64 = 0) {
        self.rows = rows
        self.checksum = checksum
    }

    mutating func add(_ value: Int64) {
        rows &+= 1
        checksum &+= value
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

/// Makes the rows of a chunk in RowBinary, each table's in one buffer, in one pass over the events.
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
        var entityType: [UInt8]
        var kinds: [KindRows]
        var flags: Int32
    }

    private struct DeltaKey: Hashable {
        var entityID: Int64
        var typeID: Int16
        var flag: Int32
    }

    private let layout: MirrorLayout
    private let types: [Int16: TypeRows]

    public init(catalog: [Int16: EntityType], layout: MirrorLayout) {
        self.layout = layout
        self.types = catalog.mapValues { type in
            TypeRows(
                entityType: RowBinary.string(type.name),
                kinds: type.kinds.map { .init(flag: $0.flag, metricType: RowBinary.string($0.metricType)) },
                flags: type.kinds.reduce(0) { $0 | $1.flag })
        }
    }

    /// - Parameter events: of scope `reaction`, with their deltas known.
    public func encode(_ events: [Event], batch: BatchNumber, part: Int32) throws(Problem) -> EncodedChunk {
        var byEntity = RowBinary()
        var byEntityTally = Tally()
        var changes = RowBinary()
        var changesTally = Tally()
        var deltas: [DeltaKey: Int64] = [:]
        byEntity.reserve(events.count &* 64)
        changes.reserve(events.count &* 72)

        for event in events {
            guard let type = types[event.typeID] else { throw .unknownType(event.version) }
            let cleared = event.clearMask & ~event.setMask
            let changed = event.setMask | cleared
            guard changed & ~type.flags == 0 else { throw .unknownKind(event.version) }
            guard changed != 0 else { continue }

            byEntity.append(encoded: type.entityType)
            byEntity.append(event.entityID)
            byEntity.append(event.userID)
            byEntity.append(event.setMask)
            byEntity.append(cleared)
            byEntity.append(microseconds: event.createdAt, as: layout.byEntity)
            byEntity.append(event.version.rawValue)
            byEntity.append(batch.rawValue)
            byEntity.append(part)
            byEntityTally.add(event.version.rawValue)

            for kind in type.kinds where changed & kind.flag != 0 {
                let value: Int8 = event.setMask & kind.flag != 0 ? 1 : -1
                changes.append(encoded: type.entityType)
                changes.append(event.entityID)
                changes.append(event.userID)
                changes.append(encoded: kind.metricType)
                changes.append(value)
                changes.append(microseconds: event.createdAt, as: layout.events)
                changes.append(event.version.rawValue)
                changes.append(batch.rawValue)
                changes.append(part)
                changesTally.add(event.version.rawValue)
                deltas[DeltaKey(entityID: event.entityID, typeID: event.typeID, flag: kind.flag), default: 0] &+=
                    Int64(value)
            }
        }
        return EncodedChunk(
            reactionsByEntity: EncodedRows(bytes: byEntity.bytes, tally: byEntityTally),
            reactionDeltas: encode(deltas, batch: batch, part: part),
            entityMetricEvents: EncodedRows(bytes: changes.bytes, tally: changesTally))
    }

    private func encode(_ deltas: [DeltaKey: Int64], batch: BatchNumber, part: Int32) -> EncodedRows {
        var rows = RowBinary()
        var tally = Tally()
        rows.reserve(deltas.count &* 56)
        for (key, delta) in deltas where delta != 0 {
            guard let type = types[key.typeID], let kind = type.kinds.first(where: { $0.flag == key.flag }) else {
                continue
            }
            rows.append(encoded: type.entityType)
            rows.append(key.entityID)
            rows.append(encoded: kind.metricType)
            rows.append(delta)
            rows.append(batch.rawValue)
            rows.append(part)
            tally.add(delta)
        }
        return EncodedRows(bytes: rows.bytes, tally: tally)
    }
}
