import CReactionsBoundary
import ClickHouseStore
import ReactionModel

/// A user's reactions as of one snapshot: what the truth says and which of it is newer than the floor.
struct Truth {
    /// The kinds of `mask` have the values they have because of event `version`. The masks of one entity do not overlap.
    struct Mark: Equatable {
        var mask: Int32
        var version: Int64
    }

    struct Entry: Equatable {
        var entityID: Int64
        var flags: Int32
        var marks: Range<Int>
    }

    /// Ascending by entity. Every entity with a reaction, and those without one that an event above the floor speaks of.
    private(set) var entries: [Entry] = []
    private(set) var marks: [Mark] = []
    let floor: Int64

    /// The table's answer. The outbox adds no flags, since a row and its event are of one transaction; it only dates them.
    init(tableIDs: [Int64], flags: [Int32], outbox: [rx_event], floor: Int64) {
        self.floor = floor
        var changes = zip(tableIDs, flags).map {
            Change(entityID: $0, version: .min, set: $1, clear: 0, isFlagged: true)
        }
        changes += outbox.map { Change($0, isFlagged: false) }
        fold(changes)
    }

    /// ClickHouse's answer under the outbox: per kind the newer version decides, which is what events in version order come to. An
    /// event at or below the floor is in ClickHouse.
    init(rows: [TruthRow], outbox: [rx_event], floor: Int64) {
        self.floor = floor
        var changes = rows.map { row in
            Change(
                entityID: row.entityID, version: row.version, set: row.isSet ? row.flag : 0,
                clear: row.isSet ? 0 : row.flag, isFlagged: true)
        }
        changes += outbox.lazy.filter { $0.version > floor }.map { Change($0, isFlagged: true) }
        fold(changes)
    }

    /// How many entities the user has reacted on.
    var reactionCount: Int { entries.count { $0.flags != 0 } }

    func entry(of entityID: Int64) -> Entry {
        var low = 0
        var high = entries.count
        while low < high {
            let middle = low + (high - low) / 2
            if entries[middle].entityID < entityID { low = middle + 1 } else { high = middle }
        }
        guard low < entries.count, entries[low].entityID == entityID else {
            return Entry(entityID: entityID, flags: 0, marks: 0..<0)
        }
        return entries[low]
    }

    private struct Change {
        var entityID: Int64
        var version: Int64
        var set: Int32
        var clear: Int32
        /// Whether it changes the flags, or only dates them.
        var isFlagged: Bool

        init(entityID: Int64, version: Int64, set: Int32, clear: Int32, isFlagged: Bool) {
            self.entityID = entityID
            self.version = version
            self.set = set
            self.clear = clear
            self.isFlagged = isFlagged
        }

        init(_ event: rx_event, isFlagged: Bool) {
            self.init(
                entityID: event.entity_id, version: event.version, set: event.set_mask, clear: event.clear_mask,
                isFlagged: isFlagged)
        }
    }

    private mutating func fold(_ unordered: [Change]) {
        let changes = unordered.sorted { ($0.entityID, $0.version) < ($1.entityID, $1.version) }
        var current: [Mark] = []
        var flags: Int32 = 0
        for (index, change) in changes.enumerated() {
            if change.isFlagged { flags = flags & ~change.clear | change.set }
            if change.version > floor { Self.add(change, to: &current) }
            guard index + 1 == changes.count || changes[index + 1].entityID != change.entityID else { continue }
            if flags != 0 || !current.isEmpty {
                entries.append(
                    Entry(
                        entityID: change.entityID, flags: flags, marks: marks.count..<marks.count + current.count))
                marks += current
            }
            current.removeAll(keepingCapacity: true)
            flags = 0
        }
    }

    /// A newer event takes its kinds out of the marks before it.
    private static func add(_ change: Change, to marks: inout [Mark]) {
        let mask = change.set | change.clear
        guard mask != 0 else { return }
        for index in marks.indices where marks[index].version < change.version { marks[index].mask &= ~mask }
        marks.removeAll { $0.mask == 0 }
        if let last = marks.indices.last, marks[last].version == change.version {
            marks[last].mask |= mask
        } else {
            marks.append(Mark(mask: mask, version: change.version))
        }
    }
}

extension Truth {
    /// The field of an entity in a user map: `<flags>` and `:<mask>:<version>` for each mark.
    func appendField(of entry: Entry, to text: inout [UInt8]) {
        text.appendDecimal(Int64(entry.flags))
        for mark in marks[entry.marks.clamped(to: marks.indices)] {
            text.append(UInt8(ascii: ":"))
            text.appendDecimal(Int64(mark.mask))
            text.append(UInt8(ascii: ":"))
            text.appendDecimal(mark.version)
        }
    }
}
