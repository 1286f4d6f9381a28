import Foundation
import TestSupport
import Testing

/// Phase `dual_read`: the table answers, and a share of the reads is compared with the way through Redis.
@Suite(.serialized) struct DualRead {
    private func dualRead(_ stack: Stack) throws -> PostgresConnection {
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: "attached")
        try session.execute(
            "INSERT INTO \"ImageReaction\" (\"imageId\", \"userId\", reaction) SELECT g, 5, 'Like' FROM generate_series(1, 60) g"
        )
        try session.execute("CALL reactions.advance('Image', force => true)")
        try session.execute("SET reactions.compare_share = 1")
        return session
    }

    private func read(_ session: PostgresConnection) throws -> String? {
        try session.value(
            "SELECT sum(flags) FROM reactions.flags_many(5, ARRAY(SELECT generate_series(1, 100)))")
    }

    private func compared(_ session: PostgresConnection) throws -> [String?] {
        try session.execute("CALL reactions._digest_compared()")
        return try session.query(
            "SELECT sum(reads), sum(failed), sum(ids), sum(hits), sum(differing) FROM reactions.compared_reads")[0]
    }

    @Test(
        "every read is compared at share 1, none at 0, and the first one is the miss that fills the map",
        arguments: RedisKind.allCases)
    func share(kind: RedisKind) async throws {
        let stack = try await Stack.make(redis: kind.shared())
        let session = try dualRead(stack)
        for _ in 0..<10 { #expect(try read(session) == "60") }
        #expect(try compared(session) == ["10", "0", "1000", "900", "0"])
        try session.execute("SET reactions.compare_share = 0")
        #expect(try read(session) == "60")
        #expect(try compared(session) == ["10", "0", "1000", "900", "0"])
        // Taken records are gone.
        let left = try stack.redisDeployment.command("LLEN", stack.prefix + "reactions:compared:Image")
        #expect(left == .integer(0))
    }

    @Test(
        "a wrong map is no wrong answer, is found, mended and named, and holds up the next phase",
        arguments: RedisKind.allCases)
    func staleCache(kind: RedisKind) async throws {
        let stack = try await Stack.make(redis: kind.shared())
        let session = try dualRead(stack)
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        // An event that is still on its way would mend the map.
        try await stack.drained(session)
        #expect(try read(session) == "60")
        let map = stack.prefix + "reactions:5"
        try stack.redisDeployment.command("HSET", map, "7", "0", "90", "2")
        #expect(try read(session) == "60")
        // Taken by the agent.
        try await eventually("the differences are known") {
            try session.value("SELECT sum(differing) FROM reactions.compared_reads") == "2"
        }
        let found = "SELECT entity_id, in_table, in_cache FROM reactions.mismatches ORDER BY 1"
        #expect(try session.query(found) == [["7", "1", "0"], ["90", "0", "2"]])
        let condition = "SELECT ok FROM reactions.readiness('Image') WHERE condition = 'mismatches'"
        #expect(try session.value(condition) == "f")
        // The second look comes when events had their time.
        try await eventually("the differences are looked at again") {
            try session.value("SELECT count(*) FROM reactions.mismatch WHERE class IS NULL") == "0"
        }
        let classes = try session.query("SELECT class FROM reactions.mismatches").map { $0[0] }
        #expect(classes == ["stale_cache", "stale_cache"])
        #expect(try session.value(condition) == "f")
        #expect(try read(session) == "60")
    }

    @Test("a Redis that is down changes no answer")
    func redisDown() async throws {
        let redis = try await RedisServer.start()
        let stack = try await Stack.make(redis: redis)
        let session = try dualRead(stack)
        #expect(try read(session) == "60")
        redis.kill()
        for _ in 0..<5 { #expect(try read(session) == "60") }
        try await redis.restart()
        try await eventually("compared again") { () throws -> Bool in
            #expect(try read(session) == "60")
            // Redis is left alone for a moment after it has failed.
            guard let now = try? compared(session) else { return false }
            return now[0] != "1"
        }
    }

    @Test("a transaction that has written sees its own rows and compares nothing", arguments: RedisKind.allCases)
    func ownWrites(kind: RedisKind) async throws {
        let stack = try await Stack.make(redis: kind.shared())
        let session = try dualRead(stack)
        try session.execute("BEGIN; SELECT reactions.react(5, 61, 'Heart')")
        #expect(try read(session) == "62")
        try session.execute("COMMIT")
        #expect(try compared(session)[0] == nil)
        #expect(try read(session) == "62")
        #expect(try compared(session) == ["1", "0", "100", "0", "0"])
    }
}
