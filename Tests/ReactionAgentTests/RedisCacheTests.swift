import AgentTestSupport
import Pipeline
import PostgresSource
import ReactionModel
import RedisStore
import TestSupport
import Testing

@testable import ReactionAgent

@Suite struct RedisCacheTests {
    private let prefix = uniqueName("agent") + ":"

    private func catalog(epoch: Int64 = 0) throws -> [Int16: EntityType] {
        let type = EntityType(
            typeID: 1, name: "Image", mode: .multi, phase: .native, kinds: [Kind(name: "Like", flag: 1)],
            userMapKey: try KeyTemplate("reactions:<user>", required: "<user>"),
            entityKey: try KeyTemplate("image:<entity>", required: "<entity>"), shardCount: 100, epoch: epoch)
        return [1: type]
    }

    private func settings(_ redis: any RedisDeployment) throws -> RedisSettings {
        RedisSettings(
            endpoint: try RedisEndpoint(redis.url), connectTimeout: .seconds(2), timeout: .seconds(5))
    }

    private func cache(_ redis: any RedisDeployment) throws -> RedisCache {
        RedisCache(settings: try settings(redis), systemIdentifier: 7, timeline: 1, keyPrefix: prefix)
    }

    private func event(_ version: Int64, user: Int64, entity: Int64, set: Int32 = 1, clear: Int32 = 0) -> Event {
        Event(
            version: Version(rawValue: version), typeID: 1, userID: user, entityID: entity, setMask: set,
            clearMask: clear, createdAt: 0, writtenAt: 0)
    }

    private func key(_ user: Int64) -> String { "\(prefix)reactions:\(user)" }

    /// A complete map without reactions, as a fill would have left it.
    private func startMap(of user: Int64, on redis: any RedisDeployment, epoch: Int64 = 0) throws {
        var server = redis.servers[0]
        if let cluster = redis as? RedisCluster { server = try cluster.owner(of: key(user)) }
        if let sentinels = redis as? RedisSentinels { server = try sentinels.master() }
        let info = try server.connect().command("INFO", "server", "replication").string ?? ""
        let identity = try #require(RedisIdentity(info: Array(info.utf8)[...]))
        let stamp = Stamp(redisHistory: identity.history, systemIdentifier: 7, timeline: 1, epoch: epoch)
        let digits = String(decoding: stamp.digits, as: UTF8.self)
        try redis.command("HSET", key(user), "_", "\(digits):0123456789abcdef:0:c:1:1:0")
    }

    private func flags(user: Int64, entity: Int64, on redis: any RedisDeployment) throws -> String? {
        try redis.command("HGET", key(user), "\(entity)").string?.split(separator: ":").first.map(String.init)
    }

    @Test(arguments: RedisKind.allCases)
    func eventsReachTheMapsThatExist(kind: RedisKind) async throws {
        let redis = try await kind.shared()
        for user: Int64 in [1, 3, 4, 5] { try startMap(of: user, on: redis) }
        let events =
            (1...2500).map { event(Int64($0), user: 1, entity: Int64($0)) }
            + [event(3000, user: 1, entity: 1, set: 2, clear: 1), event(3001, user: 2, entity: 1)]
            + (3...5).map { event(3100 + $0, user: $0, entity: 1) }
        let cache = try cache(redis)
        for _ in 0..<2 { try await cache.apply(events, catalog: catalog()) }
        #expect(try flags(user: 1, entity: 1, on: redis) == "2")
        #expect(try flags(user: 1, entity: 2500, on: redis) == "1")
        #expect(try redis.command("EXISTS", key(2)) == .integer(0))
        for user: Int64 in 3...5 { #expect(try flags(user: user, entity: 1, on: redis) == "1") }
    }

    /// More calls than one pipeline takes, most of them of users without a map.
    @Test(arguments: RedisKind.allCases)
    func aBacklogReachesTheMapsThatExist(kind: RedisKind) async throws {
        let redis = try await kind.shared()
        for user: Int64 in stride(from: 10_000, to: 11_000, by: 250) { try startMap(of: user, on: redis) }
        try await cache(redis).apply((10_000..<11_000).map { event($0, user: $0, entity: 1) }, catalog: catalog())
        for user: Int64 in stride(from: 10_000, to: 11_000, by: 250) {
            #expect(try flags(user: user, entity: 1, on: redis) == "1")
        }
        #expect(try redis.command("EXISTS", key(10_001)) == .integer(0))
    }

    @Test(arguments: RedisKind.allCases)
    func mapsAreDropped(kind: RedisKind) async throws {
        let redis = try await kind.shared()
        let users: [Int64] = Array(21...30)
        for user in users { try startMap(of: user, on: redis) }
        let type = try #require(try catalog()[1])
        #expect(try await cache(redis).drop(users + [31], of: type) == 10)
        for user in users { #expect(try redis.command("EXISTS", key(user)) == .integer(0)) }
    }

    @Test func anEpochMakesMapsAbsent() async throws {
        let server = try await RedisServer.shared.value
        try startMap(of: 3, on: server)
        try await cache(server).apply([event(1, user: 3, entity: 1)], catalog: catalog(epoch: 1))
        #expect(try flags(user: 3, entity: 1, on: server) == nil)
    }

    @Test func flushedScriptsAndARestartAreNoticed() async throws {
        let server = try await RedisServer.start()
        let cache = try cache(server)
        try startMap(of: 1, on: server)
        try await cache.apply([event(1, user: 1, entity: 1)], catalog: catalog())
        try server.connect().command("SCRIPT", "FLUSH")
        try await cache.apply([event(2, user: 1, entity: 2)], catalog: catalog())
        #expect(try flags(user: 1, entity: 2, on: server) == "1")

        try await server.restart()
        try startMap(of: 1, on: server)
        await #expect(throws: CacheError.self) {
            try await cache.apply([event(3, user: 1, entity: 3)], catalog: catalog())
        }
        try await cache.apply([event(3, user: 1, entity: 3)], catalog: catalog())
        #expect(try flags(user: 1, entity: 3, on: server) == "1")
    }

    @Test func anEventOfTheTypeNeedsNoRedis() async throws {
        let server = try await RedisServer.start()
        let cache = try cache(server)
        server.kill()
        var all = event(1, user: 0, entity: 0)
        all.scope = .type
        try await cache.apply([all], catalog: catalog())
    }

    // MARK: A cluster in trouble

    /// Users whose maps are on the first, the second and the third server.
    private func users(_ cluster: RedisCluster) throws -> [Int64] {
        try cluster.servers.map { server in
            try #require(try (1...200).first { try cluster.owner(of: key($0)) === server })
        }
    }

    @Test func aServerThatIsDownKeepsTheOthersFromNothing() async throws {
        let cluster = try await RedisCluster.start()
        let cache = try cache(cluster)
        let users = try users(cluster)
        for user in users { try startMap(of: user, on: cluster) }
        cluster.servers[1].kill()
        let events = users.map { event(1, user: $0, entity: 1) }
        await #expect(throws: CacheError.self) { try await cache.apply(events, catalog: catalog()) }
        #expect(try flags(user: users[0], entity: 1, on: cluster) == "1")
        #expect(try flags(user: users[2], entity: 1, on: cluster) == "1")
        try await cluster.servers[1].restart()
        try await cluster.whole()
        try startMap(of: users[1], on: cluster)
        try await eventually("the server is asked again") {
            (try? await cache.apply(events, catalog: catalog())) != nil
        }
        #expect(try flags(user: users[1], entity: 1, on: cluster) == "1")
    }

    @Test func theDocumentedRightsAreEnough() async throws {
        let rules = try DocumentedACL.dataServers()
        let cluster = try await RedisCluster.start(
            configuration: ["user reactions on >password \(rules)"], password: "admin")
        var settings = try settings(cluster)
        let strangers = RedisCache(settings: settings, systemIdentifier: 7, timeline: 1, keyPrefix: prefix)
        await #expect(throws: CacheError.self) {
            try await strangers.apply([event(1, user: 1, entity: 1)], catalog: catalog())
        }
        settings.login = .init(user: "reactions", password: "password")
        let cache = RedisCache(settings: settings, systemIdentifier: 7, timeline: 1, keyPrefix: prefix)
        let users = try users(cluster)
        for user in users { try startMap(of: user, on: cluster) }
        try await cache.apply(users.map { event(1, user: $0, entity: 1) }, catalog: catalog())
        for user in users { #expect(try flags(user: user, entity: 1, on: cluster) == "1") }
        let type = try #require(try catalog()[1])
        #expect(try await cache.drop(users, of: type) == 3)
        let report = try await RedisReport.ask(settings)
        #expect(report.isCluster && report.servers.count == 3 && report.missingSlots == 0)
        #expect(await Doctor.redis(settings).checks.map(\.ok) == [true, true])
    }

    /// It would be the hash tag of every key; the extension refuses it by the same rule.
    @Test func aPrefixWithABraceIsRefusedInAClusterAlone() async throws {
        func apply(_ redis: any RedisDeployment) async throws {
            try await RedisCache(
                settings: try settings(redis), systemIdentifier: 7, timeline: 1, keyPrefix: "{\(prefix)}"
            )
            .apply([event(1, user: 1, entity: 1)], catalog: catalog())
        }
        try await apply(try await RedisServer.shared.value)
        let cluster = try await RedisCluster.shared.value
        let failure = await #expect(throws: CacheError.self) { try await apply(cluster) }
        #expect(failure?.message == "In a Redis Cluster reactions.key_prefix may not have a brace.")
    }

    @Test func aKeyOfAnotherTypeIsNobodysMap() async throws {
        let server = try await RedisServer.shared.value
        try server.command("SET", key(41), "not ours")
        try startMap(of: 42, on: server)
        try await cache(server).apply(
            [event(1, user: 41, entity: 1), event(2, user: 42, entity: 1)], catalog: catalog())
        #expect(try flags(user: 42, entity: 1, on: server) == "1")
        #expect(try server.command("GET", key(41)) == .string("not ours"))
    }

    @Test func scriptsThatOneServerForgotAreLoadedThere() async throws {
        let cluster = try await RedisCluster.start()
        let cache = try cache(cluster)
        let users = try users(cluster)
        for user in users { try startMap(of: user, on: cluster) }
        try await cache.apply(users.map { event(1, user: $0, entity: 1) }, catalog: catalog())
        try cluster.servers[2].connect().command("SCRIPT", "FLUSH")
        try await cache.apply(users.map { event(2, user: $0, entity: 2) }, catalog: catalog())
        for user in users { #expect(try flags(user: user, entity: 2, on: cluster) == "1") }
    }

    /// What a map missed while it was elsewhere, it would miss for good.
    @Test func aMapThatMovedIsDroppedByTheNextEvent() async throws {
        let cluster = try await RedisCluster.start()
        let cache = try cache(cluster)
        try startMap(of: 1, on: cluster)
        try await cache.apply([event(1, user: 1, entity: 1)], catalog: catalog())
        let slot = try cluster.slot(of: key(1))
        let source = try cluster.owner(of: key(1))
        let target = try #require(cluster.servers.first { $0 !== source })

        try cluster.beginMove(of: slot, from: source, to: target)
        try await cache.apply([event(2, user: 1, entity: 2)], catalog: catalog())
        #expect(try flags(user: 1, entity: 2, on: cluster) == "1")
        try cluster.moveKeys(of: slot, from: source, to: target)
        try await cache.apply([event(3, user: 1, entity: 3)], catalog: catalog())
        #expect(try cluster.command("EXISTS", key(1)) == .integer(0))
        try cluster.finishMove(of: slot, to: target)
        try startMap(of: 1, on: cluster)
        try await cache.apply([event(4, user: 1, entity: 4)], catalog: catalog())
        #expect(try flags(user: 1, entity: 4, on: cluster) == "1")
        try cluster.move(slot, from: target, to: source)
        try await cache.apply([event(5, user: 1, entity: 5)], catalog: catalog())
        #expect(try cluster.command("EXISTS", key(1)) == .integer(0))
    }

    /// A command on two keys, of which one is on its way: it is sent again until both are there.
    @Test func keysOnTheirWayAreWaitedFor() async throws {
        let cluster = try await RedisCluster.start()
        let keys = ["a", "b"].map { "{\(prefix)}\($0)" }
        for key in keys { try cluster.command("SET", key, "1") }
        let slot = try cluster.slot(of: keys[0])
        let source = try cluster.owner(of: keys[0])
        let target = try #require(cluster.servers.first { $0 !== source })
        try cluster.beginMove(of: slot, from: source, to: target)
        try cluster.moveKeys(of: slot, from: source, to: target, count: 1)
        var commands = CommandBuffer()
        commands.begin("EXISTS", arguments: 2)
        for key in keys { commands.append(key: Array(key.utf8)) }
        #expect(try source.connect().command(["EXISTS"] + keys).isError("TRYAGAIN"))

        let waiting = RedisQuestion(settings: try settings(cluster))
        async let answer = waiting.ask(commands)
        try await eventually("the question was asked again") { try source.connect().refusals("TRYAGAIN") > 3 }
        try cluster.moveKeys(of: slot, from: source, to: target)
        #expect(try await answer == .integer(2))
        try cluster.finishMove(of: slot, to: target)
        #expect(try await waiting.ask(commands) == .integer(2))
    }

    @Test func sentinelsNameTheNextMaster() async throws {
        let deployment = try await RedisSentinels.start()
        let cache = try cache(deployment)
        try startMap(of: 1, on: deployment)
        try await cache.apply([event(1, user: 1, entity: 1)], catalog: catalog())
        #expect(try flags(user: 1, entity: 1, on: deployment) == "1")
        try await deployment.failOver()
        try await eventually("the new master is found") {
            try? startMap(of: 1, on: deployment)
            try? await cache.apply([event(2, user: 1, entity: 2)], catalog: catalog())
            return try flags(user: 1, entity: 2, on: deployment) == "1"
        }
    }
}

/// Asks from a thread that may block.
private actor RedisQuestion {
    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "redis.question")
    private let client: RedisClient

    init(settings: RedisSettings) { client = RedisClient(settings: settings) }

    func ask(_ commands: CommandBuffer) throws -> ReactionAgent.RedisReply? {
        try client.pipeline(commands).first
    }
}

extension TestSupport.RedisReply {
    fileprivate func isError(_ word: String) -> Bool {
        if case .error(let text) = self { text.hasPrefix(word) } else { false }
    }
}

extension TestSupport.RedisConnection {
    /// How often the server has answered with an error of this word.
    fileprivate func refusals(_ word: String) throws -> Int {
        let stats = try command("INFO", "errorstats").string ?? ""
        let line = stats.split(whereSeparator: \.isNewline).first { $0.hasPrefix("errorstat_\(word):count=") }
        return line?.split(separator: "=").last.flatMap { Int($0) } ?? 0
    }
}
