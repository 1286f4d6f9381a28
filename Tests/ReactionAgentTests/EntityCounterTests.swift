import Logging
import Pipeline
import ReactionModel
import RedisStore
import TestSupport
import Testing

@testable import ReactionAgent

/// The one who writes entities, against a real Redis, with what ClickHouse would say.
@Suite struct EntityCounterTests {
    private let prefix = uniqueName("counter") + ":"
    private let entity = EntityID(typeID: 1, entityID: 42)

    private func catalog(epoch: Int64 = 0, mode: Mode = .exclusive, viral: Int32 = 10_000) throws -> [Int16: EntityType]
    {
        let type = EntityType(
            typeID: 1, name: "Image", mode: mode, phase: .native,
            kinds: [Kind(name: "Like", flag: 1), Kind(name: "Heart", flag: 2)],
            userMapKey: try KeyTemplate("reactions:<user>", required: "<user>"),
            entityKey: try KeyTemplate("image:<shard>:<entity>", required: "<entity>"), shardCount: 10, epoch: epoch,
            viralThreshold: viral, regularThreshold: viral)
        return [1: type]
    }

    /// - Parameter isOver: the term is over when it is raised.
    private func counter(
        _ server: any RedisDeployment, _ metrics: Metrics = Metrics(), until isOver: OnceSignal = OnceSignal()
    ) async throws -> EntityCounter {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let settings = try await Settings.load(
            file: nil, assignments: ["redis.url=\(server.url)"], environment: [:])
        let counter = EntityCounter(
            redis: settings.redis, systemIdentifier: 7, timeline: 1, keyPrefix: prefix,
            settings: .init(tiering: Tiering(horizon: .zero)), metrics: metrics, logger: logger
        ) {
            if isOver.isRaised { throw CacheError(message: "the term is over") }
        }
        _ = await counter.use(try catalog())
        return counter
    }

    private func chunk(_ batch: Int64, _ part: Int32 = 0) -> CountedChunk {
        CountedChunk(batch: BatchNumber(rawValue: batch), part: part)
    }

    /// The users' first reactions, on the entity unless it is said otherwise.
    private func likes(_ users: ClosedRange<Int64>, version: Int64, of entity: Int64 = 42) throws -> [EntityChange] {
        users.map {
            Event(
                version: Version(rawValue: version + $0), typeID: 1, userID: $0, entityID: entity, setMask: 1,
                clearMask: 0, createdAt: 0, writtenAt: version + $0)
        }.folded(try catalog())
    }

    private func reading(_ users: ClosedRange<Int64>) -> EntityCounter.Reading {
        let reactors = users.reversed().map {
            Reactor(position: ReactionPosition(version: Version(rawValue: $0), time: 0, userID: $0), flags: 1)
        }
        return .init(id: entity, state: EntityState(tier: .regular, allFlags: 3, reactors: reactors))
    }

    private func key(_ suffix: String, of entity: Int64 = 42) -> String {
        "\(prefix)image:\(entity % 10):\(entity):\(suffix)"
    }

    private func total(_ server: RedisServer) throws -> String? {
        try server.connect().command("HGET", key("reaction_counts"), "total").string
    }

    private func install(_ reading: EntityCounter.Reading, asOf batch: Int64, by counter: EntityCounter) async throws {
        #expect(try await counter.begin([entity], asOf: BatchNumber(rawValue: batch)) == [entity])
        try await counter.install([reading])
    }

    @Test func whatIsCountedWhileAnEntityIsReadIsInIt() async throws {
        let server = try await RedisServer.shared.value
        let counter = try await counter(server)
        #expect(try await counter.begin([entity], asOf: BatchNumber(rawValue: 5)) == [entity])
        // In the reading.
        try await counter.count(likes(1...3, version: 100), at: chunk(5)) { _ in [:] }
        let later = [(chunk(6), try likes(4...5, version: 200)), (chunk(6, 10), try likes(6...6, version: 300))]
        for _ in 1...2 {
            for (chunk, changes) in later { try await counter.count(changes, at: chunk) { _ in [:] } }
        }
        #expect(try total(server) == nil)
        try await counter.install([reading(1...3)])
        #expect(try total(server) == "6")
        for (chunk, changes) in later { try await counter.count(changes, at: chunk) { _ in [:] } }
        #expect(try total(server) == "6")
        try await counter.count(likes(7...8, version: 400), at: chunk(7)) { _ in [:] }
        #expect(try total(server) == "8")
        #expect(try server.connect().command("HGET", key("reaction_counts"), "users").string == "8")
        // 29 bytes and 20 for each user.
        #expect(try server.connect().command("STRLEN", key("reactions")) == .integer(29 + 8 * 20))
        // Nothing is read that is older than what is counted, nor what is there.
        #expect(try await counter.begin([entity], asOf: BatchNumber(rawValue: 6)).isEmpty)
        #expect(try await counter.begin([entity], asOf: BatchNumber(rawValue: 7)).isEmpty)
    }

    @Test func whatAFormerLeaderSendsLateIsRefused() async throws {
        let server = try await RedisServer.shared.value
        let old = try await counter(server)
        let new = try await counter(server)
        // The old one reads; the new one counts what it does not have.
        #expect(try await old.begin([entity], asOf: BatchNumber(rawValue: 5)) == [entity])
        try await new.count(likes(4...5, version: 200), at: chunk(6)) { _ in [:] }
        let refused = await #expect(throws: CacheError.self) { try await old.install([reading(1...3)]) }
        #expect(refused?.displacedTypes == [1])
        #expect(try total(server) == nil)

        // What the old one has left the new one counts on from.
        let last = try await counter(server)
        try await install(reading(1...5), asOf: 6, by: new)
        try await last.count(likes(6...6, version: 300), at: chunk(7)) { _ in [:] }
        #expect(try total(server) == "6")
        try await last.count(likes(6...6, version: 300), at: chunk(7)) { _ in [:] }
        await #expect(throws: CacheError.self) {
            try await new.count(likes(7...7, version: 400), at: chunk(8)) { _ in [:] }
        }
        #expect(try total(server) == "6")
    }

    @Test func anEpochThatRisesVoidsWhatIsRead() async throws {
        let server = try await RedisServer.shared.value
        let counter = try await counter(server)
        #expect(try await counter.begin([entity], asOf: BatchNumber(rawValue: 5)) == [entity])
        _ = await counter.use(try catalog(epoch: 1))
        // A catalog that was read before comes late.
        #expect(await counter.use(try catalog())[1]?.epoch == 1)
        try await counter.install([reading(1...3)])
        #expect(try total(server) == nil)
        try await install(reading(1...4), asOf: 5, by: counter)
        #expect(try total(server) == "4")
    }

    /// Under another stamp it is absent, and would be there again if the stamp were the old one again: what it misses drops it.
    @Test(arguments: ["counted", "gone"])
    func anEntityOfAnotherStampIsDroppedByWhatItMisses(what: String) async throws {
        let server = try await RedisServer.shared.value
        let counter = try await counter(server)
        try await install(reading(1...4), asOf: 5, by: counter)
        _ = await counter.use(try catalog(epoch: 1))
        #expect(try total(server) == "4")
        if what == "gone" {
            try await counter.drop([entity], at: chunk(8))
        } else {
            try await counter.count(likes(7...7, version: 400), at: chunk(8)) { _ in [:] }
        }
        for suffix in ["reaction_counts", "reactions"] {
            #expect(try server.connect().command("EXISTS", key(suffix)) == .integer(0))
        }
        // It is not wanted by anybody for that.
        #expect(try await counter.takeWanted(10).isEmpty)
        try await install(reading(1...5), asOf: 8, by: counter)
        #expect(try total(server) == "5")
    }

    @Test func countsStayAListpackHoweverLateTheBatch() async throws {
        let server = try await RedisServer.shared.value
        let counter = try await counter(server)
        try await install(reading(1...4), asOf: 5, by: counter)
        let last = try #require(Version(generation: Version.maximumGeneration, sequence: 1 << 44 - 1)).rawValue
        try await counter.count(likes(7...7, version: 400), at: chunk(last, .max)) { _ in [:] }
        #expect(try total(server) == "5")
        let encoding = try server.connect().command("OBJECT", "ENCODING", key("reaction_counts"))
        #expect(encoding == .string("listpack"))
    }

    @Test func anEntityThatGoesIsDroppedAndItsReadingVoid() async throws {
        let server = try await RedisServer.shared.value
        let counter = try await counter(server)
        try await install(reading(1...3), asOf: 5, by: counter)
        try await counter.drop([entity], at: chunk(6))
        #expect(try total(server) == nil)
        #expect(try await counter.begin([entity], asOf: BatchNumber(rawValue: 6)) == [entity])
        try await counter.drop([entity], at: chunk(7))
        try await counter.install([reading(1...3)])
        #expect(try total(server) == nil)
        // The reading has it.
        #expect(try await counter.begin([entity], asOf: BatchNumber(rawValue: 8)) == [entity])
        try await counter.drop([entity], at: chunk(8))
        try await counter.install([reading(1...1)])
        #expect(try total(server) == "1")
    }

    @Test func anEntityWithoutItsListIsDroppedAndWanted() async throws {
        let server = try await RedisServer.shared.value
        let metrics = Metrics()
        let counter = try await counter(server, metrics)
        try await install(reading(1...3), asOf: 5, by: counter)
        try server.connect().command("UNLINK", key("reactions"))
        try await counter.count(likes(4...4, version: 200), at: chunk(6)) { _ in [:] }
        #expect(try total(server) == nil)
        #expect(metrics.text().contains("reactiond_entity_drops_total 1\n"))
        #expect(try await counter.takeWanted(10) == [entity])
        // So does one of which a user took back what he never gave.
        try await install(reading(1...3), asOf: 6, by: counter)
        var change = try likes(9...9, version: 300)
        change[0].deltas = [-9, 0]
        try await counter.count(change, at: chunk(7)) { _ in [:] }
        #expect(try total(server) == nil)
    }

    @Test func thoseThatAreMissedMostAreTakenFirst() async throws {
        let server = try await RedisServer.shared.value
        let counter = try await counter(server)
        for id in 1...30 {
            try server.connect().command("ZINCRBY", prefix + "reactions:wanted:Image", "\(id)", "\(id)")
        }
        let taken = try await counter.takeWanted(10)
        #expect(Set(taken.map(\.entityID)) == Set(21...30))
        #expect(try server.connect().command("ZCARD", prefix + "reactions:wanted:Image") == .integer(20))
    }

    @Test func aChunkOfManyEntitiesIsWrittenInBoundedCalls() async throws {
        let server = try await RedisServer.start()
        let admin = try server.connect()
        let counter = try await counter(server)
        let ids = (0..<3_000).map { EntityID(typeID: 1, entityID: $0) }
        #expect(try await counter.begin(ids, asOf: BatchNumber(rawValue: 1)).count == 3_000)
        try await counter.install(
            ids.map { .init(id: $0, state: EntityState(tier: .regular, allFlags: 3, reactors: [])) })
        let changes = try ids.flatMap { try likes(1...2, version: 10, of: $0.entityID) }
        try await counter.count(changes, at: chunk(2)) { _ in [:] }
        for id in [0, 1, 1_499, 2_999] as [Int64] {
            #expect(try admin.command("HGET", key("reaction_counts", of: id), "total").string == "2")
        }
        #expect(try admin.command("TTL", key("reactions", of: 7)).integer ?? 0 > 86_000)
    }

    /// A reader that looks in a transaction sees one tier or the other, whole; and no call holds Redis up.
    @Test func aPromotionIsOneStep() async throws {
        let server = try await RedisServer.start()
        let counter = try await counter(server)
        _ = await counter.use(try catalog(epoch: 1, viral: 9_000))
        let isOver = OnceSignal()
        let (socket, counts, list, sample, viral) = (
            server.socketPath, key("reaction_counts"), key("reactions"), key("sample"), key("total_reactions")
        )
        async let halves = onThread { () -> [String] in
            guard let redis = try? RedisConnection(socketPath: socket) else { return ["no connection"] }
            var halves: [String] = []
            while !isOver.isRaised {
                for command in [
                    ["MULTI"], ["HMGET", counts, "_", "total"], ["EXISTS", list], ["EXISTS", sample], ["GET", viral],
                ] {
                    _ = try? redis.command(command)
                }
                guard let replies = try? redis.command("EXEC").array, let fields = replies[0].array,
                    let marker = fields[0].string
                else { continue }
                let isViral = marker.split(separator: ":")[2] == "v"
                let isWhole =
                    isViral
                    ? replies[1] == .integer(0) && replies[2] == .integer(1) && replies[3] == fields[1]
                    : replies[1] == .integer(1) && replies[2] == .integer(0) && replies[3] == .null
                if !isWhole { halves.append(marker) }
            }
            return halves
        }
        #expect(try await counter.begin([entity], asOf: BatchNumber(rawValue: 5)) == [entity])
        try await counter.install([reading(1...8_000)])
        for batch in 6...200 as ClosedRange<Int64> {
            try await counter.count(likes(batch * 100...batch * 100 + 9, version: 10_000), at: chunk(batch)) { _ in [:]
            }
        }
        isOver.raise()
        #expect(await halves == [])
        #expect(try total(server) == "9950")
        #expect(try server.connect().command("STRLEN", sample) == .integer(29 + 1_000 * 20))
        #expect(try server.connect().command("GET", viral).string == "9950")
        // A busy machine makes single commands slow: the median tells what one of them costs Redis.
        let histogram = try server.connect().command("LATENCY", "HISTOGRAM", "evalsha").array?.last?.array ?? []
        let calls = try #require(histogram.dropFirst().first?.integer)
        let buckets = try #require(histogram.last?.array).compactMap(\.integer)
        let median = stride(from: 0, to: buckets.count - 1, by: 2).first { buckets[$0 + 1] >= calls / 2 }
        #expect(buckets[try #require(median)] < 4_000)
        let reason = try server.connect().command("HGET", counts, "_tier").string ?? ""
        #expect(reason.hasSuffix(":many"))
    }

    /// A former term that reads in a shard of which it has had nothing yet, after the new one has counted there.
    @Test func aFormerTermThatClaimsAShardLateReadsNothing() async throws {
        let server = try await RedisServer.shared.value
        let isOver = OnceSignal()
        let old = try await counter(server, until: isOver)
        isOver.raise()
        let new = try await counter(server)
        try await install(reading(1...3), asOf: 5, by: new)
        try await new.count(likes(4...5, version: 200), at: chunk(6)) { _ in [:] }
        await #expect(throws: CacheError.self) { try await old.begin([entity], asOf: BatchNumber(rawValue: 5)) }
        await #expect(throws: CacheError.self) {
            try await old.count(likes(6...6, version: 300), at: chunk(6)) { _ in [:] }
        }
        #expect(try total(server) == "5")
        // It has displaced the new one, who finds that out with his next write.
        let refused = await #expect(throws: CacheError.self) {
            try await new.count(likes(7...7, version: 400), at: chunk(7)) { _ in [:] }
        }
        #expect(refused?.displacedTypes == [1])
    }

    @Test func aKindThatIsAddedLaterBeginsAtZero() async throws {
        let server = try await RedisServer.shared.value
        let metrics = Metrics()
        let counter = try await counter(server, metrics)
        try await install(reading(1...3), asOf: 5, by: counter)
        var catalog = try catalog()
        catalog[1]?.kinds.append(Kind(name: "Cry", flag: 4))
        _ = await counter.use(catalog)
        let cry = Event(
            version: Version(rawValue: 500), typeID: 1, userID: 9, entityID: 42, setMask: 4, clearMask: 0,
            createdAt: 0, writtenAt: 500)
        try await counter.count(likes(4...4, version: 200), at: chunk(6)) { _ in [:] }
        try await counter.count([cry].folded(catalog), at: chunk(7)) { _ in [:] }
        let fields = try server.connect().command("HMGET", key("reaction_counts"), "Like", "Cry", "total", "users")
        #expect(fields == .array([.string("4"), .string("1"), .string("5"), .string("5")]))
        #expect(metrics.text().contains("reactiond_entity_drops_total 0\n"))
    }

    @Test func whatIsWantedIsBoundedAndAPlantedKeyIsRemoved() async throws {
        let server = try await RedisServer.shared.value
        let metrics = Metrics()
        let counter = try await counter(server, metrics)
        let wanted = prefix + "reactions:wanted:Image"
        let redis = try server.connect()
        for first in stride(from: 1, through: 100_500, by: 500) {
            let members = (first..<first + 500).flatMap { ["\($0)", "\($0)"] }
            try redis.command(["ZADD", wanted] + members)
        }
        // The least wanted go, also if nothing is taken.
        #expect(try await counter.takeWanted(0).isEmpty)
        #expect(try redis.command("ZCARD", wanted) == .integer(100_000))
        #expect(try redis.command("ZSCORE", wanted, "500") == .null)
        try redis.command("SET", wanted, "planted")
        #expect(try await counter.takeWanted(10).isEmpty)
        #expect(metrics.text().contains("reactiond_entity_foreign_keys_total 1\n"))
        try redis.command("ZINCRBY", wanted, "1", "42")
        #expect(try await counter.takeWanted(10) == [entity])
    }

    @Test func withAMasterDownTheOthersEntitiesAreCountedAndRead() async throws {
        let cluster = try await RedisCluster.start(configuration: ["cluster-require-full-coverage no"])
        let counter = try await counter(cluster)
        let ids = (0..<10).map { EntityID(typeID: 1, entityID: $0) }
        func counts(_ id: EntityID) -> String { "\(prefix)image:{\(id.entityID % 10)}:\(id.entityID):reaction_counts" }
        let down = try cluster.owner(of: counts(ids[0]))
        let lost = try ids.filter { try cluster.owner(of: counts($0)) === down }
        let kept = ids.filter { !lost.contains($0) }
        try #require(!kept.isEmpty)
        // Of the others all but one are there.
        #expect(try await counter.begin(Array(ids.dropLast(0)), asOf: BatchNumber(rawValue: 1)).count == 10)
        try await counter.install(
            ids.filter { $0 != kept[0] }.map {
                .init(id: $0, state: EntityState(tier: .regular, allFlags: 3, reactors: []))
            })
        await counter.giveUp([kept[0]])
        down.kill()
        let changes = try ids.flatMap { try likes(1...2, version: 10, of: $0.entityID) }
        await #expect(throws: CacheError.self) { try await counter.count(changes, at: chunk(2)) { _ in [:] } }
        for id in kept.dropFirst() {
            #expect(try cluster.command("HGET", counts(id), "total") == .string("2"))
        }
        // What cannot be reached is not read; the rest is.
        #expect(try await counter.begin(lost + [kept[0]], asOf: BatchNumber(rawValue: 2)) == [kept[0]])
        try await counter.install([
            .init(
                id: kept[0],
                state: EntityState(
                    tier: .regular, allFlags: 3,
                    reactors: [Reactor(position: .init(version: .zero, time: 0, userID: 1), flags: 1)]))
        ])
        #expect(try cluster.command("HGET", counts(kept[0]), "total") == .string("1"))
    }

    // MARK: While ClickHouse is waited for

    /// A viral entity of a type whose events do not tell all flags: of who changes it has to be asked what he had.
    private func sample(_ users: ClosedRange<Int64>) -> EntityCounter.Reading {
        let reactors = users.reversed().map {
            Reactor(position: ReactionPosition(version: Version(rawValue: $0), time: 0, userID: $0), flags: 1)
        }
        return .init(id: entity, state: EntityState(tier: .viral, allFlags: 3, reactors: reactors))
    }

    private func like(_ user: Int64) throws -> [EntityChange] {
        [
            Event(
                version: Version(rawValue: 10_000 + user), typeID: 1, userID: user, entityID: 42, setMask: 1,
                clearMask: 0, createdAt: 0, writtenAt: 0)
        ].folded(try catalog(mode: .multi))
    }

    @Test func anInstallWhileAChunkWaitsForClickHouseHasTheChunkOnce() async throws {
        let counter = try await counter(RedisServer.shared.value)
        _ = await counter.use(try catalog(epoch: 1, mode: .multi, viral: 1_000))
        try await install(sample(1...1_500), asOf: 5, by: counter)
        let clickHouse = SlowClickHouse()
        let change = try like(5_000)
        let chunk = chunk(6)
        let counting = Task { try await counter.count(change, at: chunk, ask: clickHouse.answer) }
        try await eventually { clickHouse.isAsked.isRaised }
        await counter.want(entity, replaces: true)
        var anew = sample(1...1_500)
        try anew.state.apply(change[0])
        try await install(anew, asOf: 6, by: counter)
        clickHouse.mayAnswer.raise()
        try await counting.value
        #expect(try await total(RedisServer.shared.value) == "1501")
    }

    @Test func anEpochThatRisesWhileAChunkWaitsForClickHouseIsNotTakenForAnotherWriter() async throws {
        let counter = try await counter(RedisServer.shared.value)
        _ = await counter.use(try catalog(epoch: 1, mode: .multi, viral: 1_000))
        try await install(sample(1...1_500), asOf: 5, by: counter)
        let clickHouse = SlowClickHouse()
        let (change, chunk) = (try like(5_000), chunk(6))
        let counting = Task { try await counter.count(change, at: chunk, ask: clickHouse.answer) }
        try await eventually { clickHouse.isAsked.isRaised }
        _ = await counter.use(try catalog(epoch: 2, mode: .multi, viral: 1_000))
        clickHouse.mayAnswer.raise()
        try await counting.value
    }

    @Test func whatIsCountedWhileAnInstallWaitsForClickHouseIsInIt() async throws {
        let counter = try await counter(RedisServer.shared.value)
        _ = await counter.use(try catalog(epoch: 1, mode: .multi, viral: 1_000))
        #expect(try await counter.begin([entity], asOf: BatchNumber(rawValue: 5)) == [entity])
        let clickHouse = SlowClickHouse()
        try await counter.count(like(5_000), at: chunk(6), ask: clickHouse.answer)
        let reading = sample(1...1_500)
        let installing = Task { try await counter.install([reading]) }
        try await eventually { clickHouse.isAsked.isRaised }
        try await counter.count(like(5_001), at: chunk(7)) { _ in [:] }
        clickHouse.mayAnswer.raise()
        try await installing.value
        #expect(try await total(RedisServer.shared.value) == "1502")
        try await counter.count(like(5_002), at: chunk(8)) { _ in [:] }
        #expect(try await total(RedisServer.shared.value) == "1503")
    }
}

/// Answers, when it may, that it knows nothing.
private struct SlowClickHouse: Sendable {
    let isAsked = OnceSignal()
    let mayAnswer = OnceSignal()

    func answer(_ keys: [ReactionKey]) async throws -> [ReactionKey: KnownFlags] {
        isAsked.raise()
        try await eventually { mayAnswer.isRaised }
        return [:]
    }
}
