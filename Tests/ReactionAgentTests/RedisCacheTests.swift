import AgentTestSupport
import Pipeline
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

    private func cache(_ server: RedisServer) throws -> RedisCache {
        RedisCache(
            settings: RedisSettings(
                endpoint: try RedisEndpoint("unix://\(server.socketPath)"), connectTimeout: .seconds(2),
                timeout: .seconds(5)),
            systemIdentifier: 7, timeline: 1, keyPrefix: prefix)
    }

    private func event(_ version: Int64, user: Int64, entity: Int64, set: Int32 = 1, clear: Int32 = 0) -> Event {
        Event(
            version: Version(rawValue: version), typeID: 1, userID: user, entityID: entity, setMask: set,
            clearMask: clear, createdAt: 0, writtenAt: 0)
    }

    /// A complete map without reactions, as a fill would have left it.
    private func startMap(of user: Int64, on server: RedisServer, epoch: Int64 = 0) throws {
        let redis = try server.connect()
        let info = try redis.command("INFO", "server", "replication").string ?? ""
        let identity = try #require(RedisIdentity(info: Array(info.utf8)[...]))
        let stamp = Stamp(
            redisHistory: identity.history, systemIdentifier: 7, timeline: 1, epoch: epoch)
        let digits = String(decoding: stamp.digits, as: UTF8.self)
        try redis.command("HSET", "\(prefix)reactions:\(user)", "_", "\(digits):0123456789abcdef:0:c:1:1:0")
    }

    private func flags(user: Int64, entity: Int64, on server: RedisServer) throws -> String? {
        try server.connect().command("HGET", "\(prefix)reactions:\(user)", "\(entity)").string?
            .split(separator: ":").first.map(String.init)
    }

    @Test func eventsReachTheMapsThatExist() async throws {
        let server = try await RedisServer.shared.value
        try startMap(of: 1, on: server)
        let events =
            (1...2500).map { event(Int64($0), user: 1, entity: Int64($0)) }
            + [event(3000, user: 1, entity: 1, set: 2, clear: 1), event(3001, user: 2, entity: 1)]
        let cache = try cache(server)
        for _ in 0..<2 { try await cache.apply(events, catalog: catalog()) }
        #expect(try flags(user: 1, entity: 1, on: server) == "2")
        #expect(try flags(user: 1, entity: 2500, on: server) == "1")
        #expect(try server.connect().command("EXISTS", "\(prefix)reactions:2") == .integer(0))
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
}
