import RedisStore
import TestSupport
import Testing

@testable import ReactionAgent

@Suite struct RedisProbeTests {
    private func settings(_ url: String) throws -> RedisSettings {
        RedisSettings(endpoint: try RedisEndpoint(url), connectTimeout: .seconds(5), timeout: .seconds(5))
    }

    @Test("a server tells its memory, its limit if it has one, and what it has evicted")
    func memory() async throws {
        let server = try await RedisServer.start()
        let probe = RedisProbe(try settings(server.url))
        let first = try #require(try await probe.nodes().first)
        #expect(first.place == server.socketPath)
        let unlimited = try #require(first.report)
        #expect(unlimited.usedMemory > 100_000 && unlimited.maxMemory == nil && unlimited.evictedKeys == 0)

        let redis = try server.connect()
        try redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        try redis.command("CONFIG", "SET", "maxmemory", "\(unlimited.usedMemory + (1 << 20))")
        for key in 0..<40 { try redis.command("SET", "k\(key)", String(repeating: "x", count: 100_000)) }
        let limited = try #require(try await probe.nodes().first?.report)
        #expect(limited.maxMemory == unlimited.usedMemory + (1 << 20))
        #expect(limited.evictedKeys > 0)
    }

    @Test("of a cluster every master is told, and of one that is down that it is")
    func cluster() async throws {
        let cluster = try await RedisCluster.start()
        let probe = RedisProbe(try settings(cluster.url))
        let nodes = try await probe.nodes()
        #expect(Set(nodes.map(\.place)) == Set(cluster.servers.map { "127.0.0.1:\($0.port)" }))
        #expect(nodes.allSatisfy { ($0.report?.usedMemory ?? 0) > 0 })
        let lost = "127.0.0.1:\(cluster.servers[1].port)"
        cluster.servers[1].kill()
        let left = try await probe.nodes()
        #expect(left.filter { $0.report == nil }.map(\.place) == [lost])
        #expect(left.count == 3)
        try await cluster.servers[1].restart()
        try await eventually("it is there again") { try await probe.nodes().allSatisfy { $0.report != nil } }
    }

    @Test("with no server there is nothing to tell")
    func away() async throws {
        let server = try await RedisServer.start()
        let probe = RedisProbe(try settings(server.url))
        server.stop()
        await #expect(throws: (any Error).self) { try await probe.nodes() }
        try await server.restart()
        #expect(try await probe.nodes().count == 1)
    }
}
