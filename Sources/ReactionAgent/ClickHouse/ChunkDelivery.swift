import ClickHouseStore

/// Brings a chunk into the three tables exactly once: look, do what is missing, look again, until every table has the chunk's rows
/// by count and checksum. The first look is what a resend needs, the last one what a server needs that answers 200 for less.
///
/// Pure: `ClickHouseSink` runs the actions.
struct ChunkDelivery {
    enum Action: Equatable {
        /// - Parameter isRepeated: the server had confirmed the same insert, and it is not there, or not on all shards: it took it for a
        ///   repetition of one that it has lost or that was taken back, so it must not recognise this one.
        case insert(MirrorTable, isRepeated: Bool)
        /// Merge rows that are there twice.
        case optimize(MirrorTable)
    }

    enum Decision: Equatable {
        case complete
        case act([Action])
        /// The table holds some of the rows, as the pieces of a bisected chunk leave it: to be bisected again.
        case partial(MirrorTable)
        /// There are more rows, or others, after a merge as before it.
        case surplus(MirrorTable)
        /// Twice confirmed and not there.
        case lost(MirrorTable)
    }

    let expected: [MirrorTable: Tally]
    /// A cluster's tables may have taken a block on some shards, and drop there what is sent again.
    let isSharded: Bool
    private var insertions: [MirrorTable: Int] = [:]
    private var optimized: Set<MirrorTable> = []

    init(expected: [MirrorTable: Tally], isSharded: Bool) {
        self.expected = expected
        self.isSharded = isSharded
    }

    mutating func looked(found: [MirrorTable: Tally]) -> Decision {
        var actions: [Action] = []
        for table in MirrorTable.allCases {
            let found = found[table] ?? Tally()
            switch Presence(found: found, expected: expected[table] ?? Tally()) {
            case .complete:
                break
            case .partial where !isSharded || found.isDivided:
                return .partial(table)
            case .absent, .partial:
                let earlier = insertions[table, default: 0]
                guard earlier < 2 else { return .lost(table) }
                insertions[table] = earlier + 1
                actions.append(.insert(table, isRepeated: earlier > 0))
            case .surplus where optimized.insert(table).inserted:
                actions.append(.optimize(table))
            case .surplus:
                return .surplus(table)
            }
        }
        return actions.isEmpty ? .complete : .act(actions)
    }
}
