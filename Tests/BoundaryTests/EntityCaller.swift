import CReactionsBoundary
import ReactionModel
import RedisStore
import TestSupport
import Testing

/// Entities as the agent writes them, under the stamp of the type that `Caller` describes.
struct Installer {
    let redis: RedisConnection
    let prefix: String
    var isCluster = false
    var epoch: Int64 = 1
    var nonce = Array("00ff0123456789ab".utf8)
    var counted = CountedChunk(batch: BatchNumber(rawValue: 7), part: 0)

    static let allFlags: Int32 = 15

    var stamp: Stamp {
        get throws {
            let info = try redis.command("INFO", "server", "replication").string ?? ""
            let identity = try #require(RedisIdentity(info: Array(info.utf8)[...]))
            return Stamp(
                redisHistory: identity.history, systemIdentifier: 7_000_000_000_000_000_001, timeline: 1, epoch: epoch)
        }
    }

    func key(_ entity: Int64, _ suffix: StaticString) throws -> [UInt8] {
        KeySpace(prefix: Array(prefix.utf8), isCluster: isCluster)
            .key(
                try KeyTemplate("post:<shard>:<entity>", required: "<entity>"), id: entity, shardCount: 100,
                suffix: suffix)
    }

    /// - Parameter counts: of all four kinds.
    func install(
        _ entity: Int64, _ tier: EntityTier = .regular, counts: [Int64], users: Int64?, floor: ReactionPosition? = nil,
        reactors: [Reactor] = [], reason: String? = nil
    ) throws {
        let marker = EntityMarker(nonce: nonce, tier: tier, counted: counted, builtAt: 1_767_225_600)
        var fields: [([UInt8], [UInt8])] = [(Array("_".utf8), marker.text(stamp: try stamp))]
        func add(_ name: String, _ value: String) { fields.append((Array(name.utf8), Array(value.utf8))) }
        for (kind, count) in zip(["Like", "Heart", "Laugh", "Cry"], counts) { add(kind, "\(count)") }
        add("total", "\(counts.reduce(0, +))")
        if let users { add("users", "\(users)") }
        if let reason { add("_tier", reason) }
        try redis.command(
            bytes: [Array("HSET".utf8), key(entity, KeySpace.countsSuffix)] + fields.flatMap { [$0, $1] })
        let list = ReactionList(nonce: nonce, floor: floor, reactors: reactors)
        try redis.command(bytes: [
            Array("SET".utf8),
            key(entity, tier == .viral ? KeySpace.sampleSuffix : KeySpace.reactionsSuffix),
            list.packed(allFlags: Self.allFlags),
        ])
    }

    func wanted(_ entity: Int64) throws -> String? {
        try redis.command("ZSCORE", prefix + "reactions:wanted:Image", "\(entity)").string
    }
}

func reactor(_ version: Int64, _ user: Int64, _ flags: Int32, time: UInt32? = nil) -> Reactor {
    Reactor(
        position: ReactionPosition(
            version: Version(rawValue: version), time: time ?? UInt32(1_767_225_600 + version), userID: user),
        flags: flags)
}

extension Caller {
    struct Counts: Equatable {
        var numbers: [[Int64]]
        var tiers: String
        /// What the truth was asked for, each time.
        var wanted: [[Int64]]
    }

    struct Page: Equatable {
        var reactors: [Reactor]
        var seen: CountedChunk
        var wanted: [[Int64]]

        init(
            reactors: [Reactor] = [], seen: CountedChunk = .init(batch: .init(rawValue: 0), part: 0),
            wanted: [[Int64]] = []
        ) {
            self.reactors = reactors
            self.seen = seen
            self.wanted = wanted
        }
    }

    /// - Parameters:
    ///   - table: the table's numbers of each entity; nil: ClickHouse is asked, as of `batch`.
    ///   - whenWanted: called when the truth is wanted.
    func counts(
        _ ids: [Int64], _ subject: rx_count_subject = RX_COUNT_KINDS, table: ((Int64) -> [Int64])? = nil,
        batch: Int64 = 7
    ) throws -> Counts {
        let exchange = withType { type in
            ids.withUnsafeBufferPointer { buffer in
                var request = rx_counts_request(
                    type: type, entity_ids: buffer.baseAddress, entity_count: buffer.count,
                    subject: Int32(bitPattern: subject.rawValue))
                return rx_counts_begin(&request)
            }
        }
        defer { rx_end(exchange) }
        let asked = try run(exchange) { wanted in
            guard let table else { return rx_give_batch(exchange, batch) }
            let numbers = wanted.flatMap(table)
            rx_give_counts(exchange, numbers, numbers.count)
        }
        let fields = subject == RX_COUNT_KINDS ? 4 : 1
        var numbers = [Int64](repeating: -9, count: ids.count * fields)
        var tiers = [UInt8](repeating: 0, count: ids.count)
        rx_copy_counts(exchange, &numbers, &tiers)
        return Counts(
            numbers: ids.indices.map { Array(numbers[$0 * fields..<$0 * fields + fields]) },
            tiers: tiers.map { $0 == 0 ? "-" : String(UnicodeScalar($0)) }.joined(), wanted: asked)
    }

    func reactors(
        _ entity: Int64, mask: Int32 = Installer.allFlags, limit: Int32, after: Page? = nil, batch: Int64 = 7
    ) throws -> Page {
        let exchange = withType { type in
            var request = rx_reactors_request()
            request.type = type
            request.entity_id = entity
            request.mask = mask
            request.limit = limit
            if let after, let last = after.reactors.last?.position {
                request.has_bound = 1
                request.bound = rx_position(version: last.version.rawValue, user_id: last.userID, time: last.time)
                request.seen_batch = after.seen.batch.rawValue
                request.seen_part = after.seen.part
            }
            return rx_reactors_begin(&request)
        }
        defer { rx_end(exchange) }
        let asked = try run(exchange) { _ in rx_give_batch(exchange, batch) }
        var result = rx_reactors_result()
        rx_reactors_answer(exchange, &result)
        var found = [rx_reactor](repeating: rx_reactor(), count: result.count)
        rx_copy_reactors(exchange, &found)
        return Page(
            reactors: found.map { reactor($0.position.version, $0.position.user_id, $0.flags, time: $0.position.time) },
            seen: CountedChunk(batch: BatchNumber(rawValue: result.seen_batch), part: result.seen_part), wanted: asked)
    }

    /// All pages of the size.
    func pages(_ entity: Int64, mask: Int32 = Installer.allFlags, of size: Int32, batch: Int64 = 7) throws -> [Page] {
        var pages: [Page] = []
        while true {
            let page = try reactors(entity, mask: mask, limit: size, after: pages.last, batch: batch)
            if !page.reactors.isEmpty { pages.append(page) }
            if page.reactors.count < size { return pages }
        }
    }

    func status(_ entity: Int64) throws -> (tier: UInt8, since: Int64, reason: String, batch: Int64, built: Int64) {
        let exchange = withType { rx_entity_status_begin($0, entity) }
        defer { rx_end(exchange) }
        _ = try run(exchange) { _ in }
        var status = rx_entity_status()
        rx_entity_status_answer(exchange, &status)
        let reason = withUnsafeBytes(of: &status.reason) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        return (status.tier, status.tier_since, reason, status.counted_batch, status.built_at)
    }

    /// Steps to the end; the truth is given by `give`.
    private func run(_ exchange: OpaquePointer?, _ give: ([Int64]) -> Void) throws -> [[Int64]] {
        var asked: [[Int64]] = []
        while true {
            let wait = step(exchange)
            switch rx_action(UInt32(wait.action)) {
            case RX_WANT_TRUTH:
                var ids: UnsafePointer<Int64>?
                var count = 0
                rx_wanted_entities(exchange, &ids, &count)
                asked.append(Array(UnsafeBufferPointer(start: ids, count: count)))
                give(asked.last ?? [])
            case RX_DONE: return asked
            default: throw failure(of: exchange)
            }
        }
    }
}
