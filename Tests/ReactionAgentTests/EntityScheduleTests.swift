import Logging
import Pipeline
import ReactionModel
import RedisStore
import SeededRandom
import Synchronization
import TestSupport
import Testing

@testable import ReactionAgent

/// Random schedules of everything that may happen around the counting of entities, against a real Redis: chunks counted and counted
/// again, terms that end and go on nevertheless, readings installed late, keys that are evicted, older contents that come back. What
/// Redis holds under the stamp of the day is at every moment the truth as of the chunk in its marker, and at the end the whole truth.
@Suite struct EntityScheduleTests {
    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func whateverHappensTheCountsAreTheTruth(seed: UInt64) async throws {
        let server = try await RedisServer.start(configuration: ["enable-debug-command local"])
        let world = try World(server, seed: seed)
        try await world.begin()
        for step in 1...300 {
            let what = try await world.step()
            try world.expectTruth("seed \(seed), step \(step): \(what)")
        }
        try await world.settle()
        try world.expectTruth("seed \(seed), at the end", isWhole: true)
    }
}

/// An agent's term, as far as it counts.
private final class Term {
    let counter: EntityCounter
    let isOver: OnceSignal
    /// Of the chunk that the term began with, and of the one to be counted next.
    let first: Int
    var next: Int
    var readings: [(id: EntityID, base: BatchNumber)] = []

    init(_ counter: EntityCounter, _ isOver: OnceSignal, next: Int) {
        self.counter = counter
        self.isOver = isOver
        self.first = next
        self.next = next
    }
}

private final class World {
    private static let entities = 1...4 as ClosedRange<Int64>
    private static let suffixes = ["reaction_counts", "reactions", "sample", "total_reactions", "viral"]
    private let server: RedisServer
    private let redis: TestSupport.RedisConnection
    private var random: SplitMix
    private var epoch: Int64 = 0
    /// Confirmed, in order.
    private var chunks: [(place: CountedChunk, events: [Event])] = []
    private var flags: [Reaction: Int32] = [:]
    private var version: Int64 = 0
    /// Chunks that no later term counts again.
    private var finished = 0
    private var term: Term?
    /// A former term that has not noticed yet.
    private var former: Term?
    private var isSaved = false

    private struct Reaction: Hashable {
        var entityID: Int64
        var userID: Int64
    }

    init(_ server: RedisServer, seed: UInt64) throws {
        self.server = server
        redis = try server.connect()
        random = SplitMix(seed: seed)
    }

    func begin() async throws {
        if let term {
            term.isOver.raise()
            former = term
        }
        let isOver = OnceSignal()
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let settings = try await Settings.load(
            file: nil, assignments: ["redis.url=unix://\(server.socketPath)"], environment: [:])
        let counter = EntityCounter(
            redis: settings.redis, systemIdentifier: 7, timeline: 1, keyPrefix: "",
            settings: .init(tiering: Tiering(dwell: .zero, horizon: .zero)), metrics: Metrics(), logger: logger
        ) {
            if isOver.isRaised { throw CacheError(message: "the term is over") }
        }
        _ = await counter.use(try catalog)
        term = Term(counter, isOver, next: finished)
    }

    private var catalog: [Int16: EntityType] {
        get throws {
            let type = EntityType(
                typeID: 1, name: "Image", mode: .multi, phase: .native,
                kinds: [Kind(name: "Like", flag: 1), Kind(name: "Heart", flag: 2)],
                userMapKey: try KeyTemplate("reactions:<user>", required: "<user>"),
                entityKey: try KeyTemplate("image:<shard>:<entity>", required: "<entity>"), shardCount: 2,
                epoch: epoch, viralThreshold: 14, regularThreshold: 10)
            return [1: type]
        }
    }

    // MARK: Steps

    func step() async throws -> String {
        guard let term else { return "" }
        switch Int.random(in: 0..<20, using: &random) {
        case 0..<6: return write()
        case 6..<10: return "count \(try await count(term))"
        case 10:
            term.next = Int.random(in: finished...term.next, using: &random)
            return "count again from \(term.next)"
        case 11:
            finished = term.next
            return "finish"
        case 12, 13: return "begin \(try await read(term))"
        case 14, 15: return "install \(try await install(term))"
        case 16:
            let key = key(.random(in: Self.entities, using: &random), Self.suffixes.randomElement(using: &random) ?? "")
            try redis.command("UNLINK", key)
            // What was evicted, then missed and then comes back is not noticed: nothing was written meanwhile.
            isSaved = false
            return "evict \(key)"
        case 17: return try await older()
        case 18:
            // Older contents are noticed within a second, and a term that ends before is told of in docs/internals.md.
            try await noticing(term) { _ = try await term.counter.takeWanted(0) }
            try await begin()
            return "new term"
        default:
            guard let former else { return "nothing" }
            // Whatever it is told, it goes on.
            let way = Int.random(in: 0..<3, using: &random)
            _ = try? await way == 0 ? count(former) : way == 1 ? read(former) : install(former)
            return "former term, \(way)"
        }
    }

    /// A batch of one chunk or two.
    private func write() -> String {
        let batch = BatchNumber(rawValue: (chunks.last?.place.batch.rawValue ?? 0) + 1)
        for part in 0...Int32.random(in: 0...1, using: &random) {
            chunks.append((CountedChunk(batch: batch, part: 10 * part), change()))
        }
        return "write batch \(batch.rawValue)"
    }

    private func change() -> [Event] {
        var events: [Event] = []
        for _ in 1...Int.random(in: 1...6, using: &random) {
            let reaction = Reaction(
                entityID: .random(in: Self.entities, using: &random), userID: .random(in: 1...12, using: &random))
            let (before, after) = (flags[reaction] ?? 0, Int32.random(in: 0...3, using: &random))
            guard before != after else { continue }
            version += 1
            flags[reaction] = after
            events.append(
                Event(
                    version: Version(rawValue: version), typeID: 1, userID: reaction.userID,
                    entityID: reaction.entityID, setMask: after & ~before, clearMask: before & ~after,
                    createdAt: version * 1_000_000, writtenAt: version * 1_000_000))
        }
        return events
    }

    private func count(_ term: Term) async throws -> Int {
        guard term.next < chunks.count else { return 0 }
        let (place, events) = chunks[term.next]
        try await noticing(term) {
            try await term.counter.count(events.folded(try catalog), at: place) { _ in [:] }
            term.next += 1
        }
        return term.next
    }

    private func read(_ term: Term) async throws -> Int {
        // It may have been asked for some time ago, but in this term: what was finished before was confirmed.
        let confirmed = chunks[max(term.first - 1, 0)...].suffix(5).map(\.place.batch)
        guard let base = confirmed.randomElement(using: &random) else { return 0 }
        let id = EntityID(typeID: 1, entityID: .random(in: Self.entities, using: &random))
        try await noticing(term) {
            for id in try await term.counter.begin([id], asOf: base) { term.readings.append((id, base)) }
        }
        return term.readings.count
    }

    private func install(_ term: Term) async throws -> Int {
        guard let reading = term.readings.popLast() else { return 0 }
        let reactors = reactors(of: reading.id.entityID, through: CountedChunk(batch: reading.base, part: .max))
        try await noticing(term) {
            let state = EntityState(tier: .regular, allFlags: 3, reactors: reactors)
            try await term.counter.install([.init(id: reading.id, state: state)])
        }
        return reactors.count
    }

    /// Older contents, while Redis runs.
    private func older() async throws -> String {
        if isSaved {
            try redis.command("DEBUG", "RELOAD", "NOSAVE")
            isSaved = false
            return "older contents"
        }
        try redis.command("SAVE")
        isSaved = true
        return "save"
    }

    /// Who finds that entities are not as they were left raises the epoch, if he leads.
    private func noticing(_ term: Term, _ body: () async throws -> Void) async throws {
        do { try await body() } catch let error as CacheError {
            guard !error.displacedTypes.isEmpty, !term.isOver.isRaised else { throw error }
            epoch += 1
            _ = await term.counter.use(try catalog)
        }
    }

    /// Counts everything, and has every entity installed.
    func settle() async throws {
        guard let term else { return }
        try await noticing(term) { _ = try await term.counter.takeWanted(0) }
        for _ in 1...2 {
            while term.next < chunks.count { _ = try await count(term) }
            while !term.readings.isEmpty { _ = try await install(term) }
            for entity in Self.entities {
                let last = chunks.last?.place.batch ?? BatchNumber(rawValue: 0)
                let id = EntityID(typeID: 1, entityID: entity)
                try await noticing(term) {
                    for id in try await term.counter.begin([id], asOf: last) { term.readings.append((id, last)) }
                }
            }
        }
        while !term.readings.isEmpty { _ = try await install(term) }
    }

    // MARK: The truth

    private func reactors(of entity: Int64, through place: CountedChunk) -> [Reactor] {
        var found: [Int64: Reactor] = [:]
        for (_, events) in chunks.prefix(while: { $0.place <= place }) {
            for event in events where event.entityID == entity {
                let before = found[event.userID]?.flags ?? 0
                found[event.userID] = Reactor(
                    position: ReactionPosition(
                        version: event.version, createdAt: event.createdAt, userID: event.userID),
                    flags: before & ~event.clearMask | event.setMask)
            }
        }
        return found.values.filter { $0.flags != 0 }.sorted { $0.position > $1.position }
    }

    private func key(_ entity: Int64, _ suffix: String) -> String { "image:\(entity % 2):\(entity):\(suffix)" }

    /// - Parameter isWhole: whether every entity has to be there, with everything.
    func expectTruth(_ when: String, isWhole: Bool = false) throws {
        let info = try redis.command("INFO", "server", "replication").string ?? ""
        let stamp = Stamp(
            redisHistory: RedisIdentity(info: Array(info.utf8)[...])?.history ?? [], systemIdentifier: 7, timeline: 1,
            epoch: epoch)
        for entity in Self.entities {
            let held = try redis.command(
                "HMGET", key(entity, "reaction_counts"), "_", "Like", "Heart", "total", "users")
            let values: [String?] = (held.array ?? []).map(\.string)
            let text = values.first.flatMap(\.self).map { Array($0.utf8) } ?? []
            guard let marker = EntityMarker(ByteCursor(text), stamp: stamp) else {
                try #require(!isWhole, "\(when): entity \(entity) is absent")
                continue
            }
            let everything = CountedChunk(batch: BatchNumber(rawValue: .max), part: .max)
            let truth = reactors(of: entity, through: isWhole ? everything : marker.counted)
            let (likes, hearts) = (truth.count { $0.flags & 1 != 0 }, truth.count { $0.flags & 2 != 0 })
            try #require(
                values.dropFirst() == ["\(likes)", "\(hearts)", "\(likes + hearts)", "\(truth.count)"],
                "\(when): entity \(entity) as of \(marker.counted)")
            let list = key(entity, marker.tier == .viral ? "sample" : "reactions")
            let length = try redis.command("STRLEN", list).integer
            try #require(
                length == 0 && !isWhole || length == Int64(29 + 20 * truth.count), "\(when): list of \(entity)")
        }
    }
}
