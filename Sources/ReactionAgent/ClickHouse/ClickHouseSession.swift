import ClickHouseStore
import Glibc
import Pipeline
import ReactionModel

/// What is known of one server, and the conversations with it about one chunk. For one thread at a time.
///
/// - An insert is one block of one partition, so a table takes it whole or not at all; its body is gzip, so a body that was cut off
///   is an error.
/// - Attempts at the same rows of a table share a query id, and the server refuses a query while another one with its id runs (code
///   216, to be tried again): a look that follows sees what every attempt before has done, also those of a process that was killed.
/// - Where the server has deduplication tokens, it drops a resent block by itself.
/// - A refused chunk leaves nothing behind: what other tables had taken of it is deleted. A cluster's shard may take rows after the chunk
///   was refused: whoever finds them under the name of a piece deletes them.
///
/// `MirrorCluster` says what is different on a cluster.
struct ClickHouseSession {
    /// Rows at which the server would split an insert into blocks: more than a chunk can have.
    private static let largestBlock = 1 << 26
    /// How long the server may take to delete a refused chunk's rows.
    private static let deletionLimit: Duration = .seconds(20)

    let client: ClickHouseClient
    let abilities: ServerAbilities
    let identity: SinkIdentity
    let layout: MirrorLayout
    /// Nil for a server alone.
    let cluster: MirrorCluster?

    init(_ settings: ClickHouseSettings) throws(SinkError) {
        client = try ClickHouseClient(settings)
        guard let version = try client.rows("SELECT version()", inDatabase: false).first?.first else { throw .nonsense }
        abilities = ServerAbilities(rows: try client.rows(ServerAbilities.query))
        cluster = try Self.cluster(client)
        if let cluster {
            client.clusterSettings = cluster.settings(abilities, within: settings.requestTimeout.components.seconds)
        }
        identity = SinkIdentity(version: version, startedAt: try Self.startedAt(client, cluster))
        let columns = try client.rows(MirrorTable.columnsQuery(database: settings.database), inDatabase: false)
        do {
            layout = try MirrorLayout(columns: columns)
        } catch {
            throw .schema(error.message + "; run reactiond init-clickhouse")
        }
    }

    /// When the server started that answers now, of a cluster the last one, in unix seconds, give or take one.
    func startedAt() throws(SinkError) -> Int64 { try Self.startedAt(client, cluster) }

    private static func startedAt(_ client: ClickHouseClient, _ cluster: MirrorCluster?) throws(SinkError) -> Int64 {
        let query = cluster?.startedAtQuery ?? "SELECT toInt64(toUInt32(now())) - toInt64(uptime())"
        let found = try client.rows(query, inDatabase: false)
        guard let started = found.first?.first.flatMap({ Int64($0) }) else { throw .nonsense }
        return started
    }

    private static func cluster(_ client: ClickHouseClient) throws(SinkError) -> MirrorCluster? {
        let tables = try client.rows(MirrorCluster.query(database: client.settings.database), inDatabase: false)
        guard !tables.isEmpty else { return nil }
        guard let name = MirrorCluster.name(tables) else {
            throw .schema("the tables are not spread over one cluster; run reactiond init-clickhouse --cluster NAME")
        }
        return try cluster(name, client)
    }

    /// The cluster as the server knows it.
    static func cluster(_ name: String, _ client: ClickHouseClient) throws(SinkError) -> MirrorCluster {
        let found = try client.rows(MirrorCluster.replicasQuery(name), inDatabase: false)
        guard let replicas = found.first?.first.flatMap({ Int($0) }) else { throw .nonsense }
        guard replicas > 0 else {
            let known = try client.rows(MirrorCluster.clustersQuery, inDatabase: false).compactMap(\.first)
            throw .schema("the server knows no cluster \(name); it knows: \(known.joined(separator: ", "))")
        }
        guard let cluster = MirrorCluster(name: name, replicas: replicas) else {
            throw .clusterName
        }
        return cluster
    }

    // MARK: Chunks of reactions

    func encode(_ chunk: Chunk, _ catalog: [Int16: EntityType]) throws(SinkError) -> EncodedChunk {
        do {
            return try ChunkEncoder(catalog: catalog, layout: layout)
                .encode(chunk.events, batch: chunk.batch, part: chunk.part)
        } catch {
            switch error {
            case .unknownType(let version): throw .content("event \(version.rawValue) is of an unknown type")
            case .unknownKind(let version): throw .content("event \(version.rawValue) is of an unknown kind")
            }
        }
    }

    func tallies(_ query: ChunkQuery) throws(SinkError) -> [MirrorTable: Tally] {
        guard let tallies = ChunkQuery.tallies(try client.rows(query.tallies(on: cluster))) else { throw .nonsense }
        return tallies
    }

    func tallies(of batches: ClosedRange<BatchNumber>) throws(SinkError) -> [BatchNumber: MirroredRows] {
        guard let tallies = ChunkQuery.talliesByBatch(try client.rows(ChunkQuery.tallies(of: batches))) else {
            throw .nonsense
        }
        return tallies
    }

    private func distinctTally(_ query: ChunkQuery, _ table: MirrorTable) throws(SinkError) -> Tally {
        let rows = try client.rows(query.distinctTally(table))
        guard let tally = rows.first.flatMap({ ChunkQuery.tally($0) }) else { throw .nonsense }
        return tally
    }

    func contains(_ rows: EncodedChunk, _ query: ChunkQuery) throws(SinkError) -> Bool {
        let found = try tallies(query)
        return MirrorTable.allCases.allSatisfy {
            Presence(found: found[$0] ?? Tally(), expected: rows[$0].tally) == .complete
        }
    }

    /// - Parameter isFirst: nothing is there yet.
    func deliver(_ rows: EncodedChunk, _ query: ChunkQuery, isFirst: Bool) throws(SinkError) {
        var delivery = ChunkDelivery(expected: rows.tallies, isSharded: cluster != nil)
        var found = isFirst ? [:] : try tallies(query)
        while true {
            switch delivery.looked(found: found) {
            case .complete:
                return
            case .act(let actions):
                for action in actions { try perform(action, rows, query) }
                found = try tallies(query)
            case .partial(let table):
                throw .content("\(table.rawValue) holds a part of the chunk")
            case .surplus(let table):
                guard try distinctTally(query, table) == rows[table].tally else {
                    if cluster != nil, found[table]?.isDivided == false {
                        try delete(query, from: MirrorTable.allCases)
                        throw SinkError(disposition: .retry, message: "\(table.rawValue) held rows of a refused chunk")
                    }
                    throw .content("\(table.rawValue) holds other rows under the name of the chunk")
                }
                throw SinkError(
                    disposition: .retry, message: "\(table.rawValue) holds rows twice that are not merged yet")
            case .lost(let table):
                throw SinkError(disposition: .retry, message: "\(table.rawValue) does not keep what it confirms")
            }
        }
    }

    /// Merges what is there twice of a delivered chunk. Returns whether anything was.
    func merge(_ query: ChunkQuery, _ expected: [MirrorTable: Tally]) throws(SinkError) -> Bool {
        let found = try tallies(query)
        let doubled = MirrorTable.allCases.filter {
            Presence(found: found[$0] ?? Tally(), expected: expected[$0] ?? Tally()) == .surplus
        }
        for table in doubled { try optimize(table, query) }
        return !doubled.isEmpty
    }

    private func perform(_ action: ChunkDelivery.Action, _ rows: EncodedChunk, _ query: ChunkQuery) throws(SinkError) {
        switch action {
        case .optimize(let table):
            try optimize(table, query)
        case .insert(let table, let isRepeated):
            do {
                try client.insert(
                    table.insert(), rows: rows[table].bytes,
                    settings: insertSettings(token: query.token(table), isRepeated: isRepeated),
                    queryID: query.queryID(table, database: client.settings.database))
            } catch {
                if error.disposition == .rejectBatch { try takeBack(query, before: table) }
                throw error
            }
        }
    }

    /// One chunk, one block, one part, on disk when it is confirmed.
    func insertSettings(token: String, isRepeated: Bool) -> [ClickHouseClient.Setting] {
        var settings: [ClickHouseClient.Setting] = [("max_insert_block_size", String(Self.largestBlock))]
        for name in ["async_insert", "optimize_on_insert"] where abilities.knows(setting: name) {
            settings.append((name, "0"))
        }
        if isDeduplicatedByHash {
            settings.append(("insert_deduplicate", isRepeated ? "0" : "1"))
        } else if abilities.hasDeduplicationToken {
            settings.append(("insert_deduplicate", "1"))
            let suffix = isRepeated ? ":" + String(UInt64.random(in: 0...UInt64.max), radix: 36) : ""
            settings.append(("insert_deduplication_token", token + suffix))
        }
        return settings
    }

    /// Replicated tables drop a block that they have, by its hash.
    private var isDeduplicatedByHash: Bool { cluster != nil }
    /// Whether a late attempt at the same rows adds nothing.
    var isDeduplicated: Bool { isDeduplicatedByHash || abilities.hasDeduplicationToken }

    /// Has the table's last rows, of some partitions, followed by others, where they would otherwise stay as they are.
    func putBlanks(_ table: MirrorTable, partitions: [Int64]) throws(SinkError) {
        guard cluster?.needsBlanks == true else { return }
        for partition in partitions {
            _ = try client.query(table.insertBlanks(partition: partition), settings: Removal.settings(abilities))
        }
    }

    private func optimize(_ table: MirrorTable, _ query: ChunkQuery) throws(SinkError) {
        try putBlanks(table, partitions: [query.partition])
        _ = try client.query(query.optimize(table, on: cluster, database: client.settings.database))
    }

    /// Deletes what the tables before the one that refused the chunk hold of it. Of a cluster's table some shards may have taken what
    /// another refused.
    private func takeBack(_ query: ChunkQuery, before refusing: MirrorTable) throws(SinkError) {
        let earlier = Array(MirrorTable.allCases.prefix { $0 != refusing })
        try delete(query, from: cluster == nil ? earlier : earlier + [refusing])
    }

    /// Deletes the chunk's rows in some tables, and waits for that.
    private func delete(_ query: ChunkQuery, from tables: [MirrorTable]) throws(SinkError) {
        let sync: [ClickHouseClient.Setting] =
            abilities.knows(setting: "mutations_sync") ? [("mutations_sync", "1")] : []
        let database = client.settings.database
        for table in tables {
            _ = try client.query(query.delete(from: table, on: cluster, database: database), settings: sync)
            try putBlanks(table, partitions: [query.partition])
        }
        let deadline = ContinuousClock.now + Self.deletionLimit
        while true {
            let left = try tallies(query)
            guard let table = tables.first(where: { left[$0]?.rows != 0 }) else { return }
            guard ContinuousClock.now < deadline else {
                throw SinkError(disposition: .retry, message: "\(table.rawValue): a deletion takes long")
            }
            usleep(20_000)
        }
    }

    // MARK: Removals

    func remaining(_ removal: Removal) throws(SinkError) -> Int64 {
        let rows = try client.patiently { () throws(SinkError) in
            try client.rows(removal.remaining, settings: Removal.settings(abilities))
        }
        guard let count = rows.first?.first.flatMap({ Int64($0) }) else { throw .nonsense }
        return count
    }

    /// What the server makes by itself it cannot refuse for its content: something else is wrong, and parking an event would not help.
    func remove(_ removal: Removal, _ query: ChunkQuery) throws(SinkError) {
        do {
            // As long as it takes: cut off, it would be begun anew each time. Another attempt that the server still has is refused, by its id.
            try client.patiently { () throws(SinkError) in try write(removal, query) }
        } catch {
            guard error.disposition == .rejectBatch else { throw error }
            throw SinkError(disposition: .stop, status: error.status, code: error.code, message: error.message)
        }
    }

    private func write(_ removal: Removal, _ query: ChunkQuery) throws(SinkError) {
        guard try remaining(removal) > 0 else { return }
        let before = try tallies(query)
        if before[.entityMetricEvents]?.rows == 0 {
            let others = [MirrorTable.reactionsByEntity, .reactionDeltas]
            let written = others.filter { before[$0]?.rows != 0 }
            // A cluster may have taken a part, and merges when it likes.
            if cluster != nil { try delete(query, from: written) }
            for table in others { try insert(removal, into: table, query) }
            if cluster == nil { for table in written { try optimize(table, query) } }
        }
        try insert(removal, into: .entityMetricEvents, query)
        guard try remaining(removal) == 0 else {
            throw SinkError(disposition: .retry, message: "reactions that were to be removed are left")
        }
        // A cluster's servers know nothing of each other's query ids.
        for (table, tally) in cluster == nil ? [:] : try tallies(query) where tally.isDoubled {
            try optimize(table, query)
        }
    }

    private func insert(_ removal: Removal, into table: MirrorTable, _ query: ChunkQuery) throws(SinkError) {
        _ = try client.query(
            removal.insert(into: table), settings: Removal.settings(abilities),
            queryID: query.queryID(table, database: client.settings.database))
    }

    // MARK: States

    /// - Parameter keys: all of one era.
    func flags(
        of keys: [ReactionKey], _ type: EntityType, in era: BackfillEra?, before batch: BatchNumber, _ version: Version,
        into flags: inout [ReactionKey: KnownFlags]
    ) throws(SinkError) {
        let query = StateQuery(type: type, in: era, before: batch, version)
        if query.tellsCleared {
            for key in keys { flags[key] = KnownFlags(unknown: ~0) }
        }
        for start in stride(from: 0, to: keys.count, by: StateQuery.keysPerQuery) {
            let some = keys[start..<min(start + StateQuery.keysPerQuery, keys.count)]
            let answer = try client.query(query.text(keys: some.lazy.map { ($0.userID, $0.entityID) }))
            guard let rows = StateQuery.rows(answer) else { throw .nonsense }
            for row in rows where row.flag != 0 {
                let key = ReactionKey(
                    typeID: type.typeID, userID: row.userID, entityID: row.entityID, era: era?.version ?? .zero)
                if row.flag > 0 { flags[key, default: KnownFlags()].flags |= row.flag }
                flags[key]?.unknown &= ~Int32(truncatingIfNeeded: row.flag.magnitude)
            }
        }
    }
}

extension EncodedChunk {
    var tallies: [MirrorTable: Tally] {
        Dictionary(uniqueKeysWithValues: MirrorTable.allCases.map { ($0, self[$0].tally) })
    }
}

extension SinkError {
    /// Not one of ClickHouse's: the refusal is ours.
    static let ownCode = -1

    static func content(_ message: String) -> SinkError {
        SinkError(disposition: .rejectBatch, code: ownCode, message: message)
    }

    static func schema(_ message: String) -> SinkError {
        SinkError(disposition: .stop, message: message)
    }

    static let nonsense = SinkError(disposition: .retry, message: "the answer is not ClickHouse's")
}
