import Foundation
import Glibc
import TestSupport
import Testing

/// What happens when a server is not there. "Unknown" is an error of class 08 (or null on request), never 0.
@Suite("Trouble") struct TroubleTests {
    /// A stack whose Redis belongs to the test, with one reaction of user 1 on entity 10.
    private func stack(redis: RedisServer) async throws -> (Stack, PostgresConnection) {
        let stack = try await Stack.make(redis: redis)
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        try session.execute("SELECT reactions.react(1, 10, 'Like')")
        return (stack, session)
    }

    private func sqlstate(_ session: PostgresConnection, _ sql: String) -> String {
        do {
            try session.execute(sql)
            return "00000"
        } catch let error as PostgresError {
            return error.sqlstate
        } catch {
            return "\(error)"
        }
    }

    @Test("with Redis down a read is unknown, a write commits, and the agent catches up when Redis is back")
    func redisDown() async throws {
        let redis = try await RedisServer.start()
        let (stack, session) = try await stack(redis: redis)
        let agent = try stack.startAgent()
        defer { agent.stop(SIGTERM) }
        #expect(try session.value("SELECT reactions.flags(1, 10)") == "1")
        redis.kill()
        #expect(sqlstate(session, "SELECT reactions.flags(1, 10)") == "08006")
        #expect(sqlstate(session, "SELECT * FROM reactions.flags_many(1, ARRAY[10])") == "08006")
        try session.execute("SET reactions.on_unavailable = 'null'")
        #expect(try session.query("SELECT reactions.flags(1, 10)") == [[nil]])
        #expect(
            try session.query("SELECT * FROM reactions.flags_many(1, ARRAY[10, 11])") == [["10", nil], ["11", nil]])
        try session.execute("SET reactions.on_unavailable = 'error'")
        try session.execute("SELECT reactions.react(1, 11, 'Heart')")
        try await redis.restart()
        let reader = try stack.connect()
        try await eventually("the reads are known again") {
            (try? reader.value("SELECT reactions.flags(1, 11)")) == "2"
        }
        #expect(try reader.value("SELECT reactions.flags(1, 10)") == "1")
        try await stack.drained(reader)
    }

    @Test("a hanging Redis makes a read unknown after its time-out and holds a commit no longer than the deadline")
    func redisHangs() async throws {
        let redis = try await RedisServer.start()
        let (stack, session) = try await stack(redis: redis)
        #expect(try session.value("SELECT reactions.flags(1, 10)") == "1")
        redis.pause()
        defer { redis.resume() }
        try session.execute("SET reactions.redis_timeout = '200ms'")
        #expect(sqlstate(session, "SELECT reactions.flags(1, 10)") == "08006")

        // The callback's own limit is 20 ms. The outbox knows the state before, so only the apply meets Redis.
        var change = "react"
        func commit(_ writer: PostgresConnection) throws -> Double {
            change = change == "react" ? "unreact" : "react"
            try writer.execute("BEGIN; SELECT reactions.\(change)(1, 10, 'Like')")
            return try milliseconds { try writer.execute("COMMIT") }
        }
        let isSoonWithConnection = try await isDone(within: 100, "a commit on an open connection") {
            redis.resume()
            let writer = try stack.connect()
            try writer.execute("SET reactions.redis_timeout = '1s'")
            #expect(try writer.value("SELECT reactions.flags(1, 10)") != nil)
            redis.pause()
            return try commit(writer)
        }
        #expect(isSoonWithConnection)
        // A session without a connection does not wait for one beyond the same limit either.
        let isSoonWithoutConnection = try await isDone(within: 100, "a commit without a connection") {
            let fresh = try stack.connect()
            try fresh.execute("SET reactions.redis_timeout = '1ms'")
            return try commit(fresh)
        }
        #expect(isSoonWithoutConnection)
    }

    @Test(
        "cancel, statement_timeout and termination act within a hanging read",
        arguments: [
            "SELECT reactions.flags(1, 10)", "SELECT * FROM reactions.flags_many(1, ARRAY[10, 11])",
            "SELECT * FROM reactions.by_user(1)", "SELECT reactions.toggle(1, 12, 'Like')",
            "SELECT reactions.react(1, 12, 'Like')", "SELECT reactions.invalidate('Image', 1)",
            "SELECT * FROM reactions.doctor()",
        ])
    func cancel(read: String) async throws {
        let redis = try await RedisServer.start()
        let (stack, _) = try await stack(redis: redis)
        let control = try stack.connect()
        defer { redis.resume() }
        /// A session that is connected to a Redis that then hangs.
        func connected() throws -> PostgresConnection {
            redis.resume()
            let session = try stack.connect()
            #expect(try session.value("SELECT reactions.flags(1, 10)") == "1")
            redis.pause()
            return session
        }
        let isTimedOutSoon = try await isDone(within: 150, "statement_timeout in \(read)") {
            let session = try connected()
            try session.execute("SET statement_timeout = '50ms'")
            return milliseconds { #expect(sqlstate(session, read) == "57014") }
        }
        #expect(isTimedOutSoon)
        // After a termination libpq reports the loss of the connection, which has no SQLSTATE.
        for (call, expected) in [("pg_cancel_backend", "57014"), ("pg_terminate_backend", "")] {
            let isEndedSoon = try await isDone(within: 100, "\(call) in \(read)") {
                let session = try connected()
                let pid = session.backendPID
                // Safe because: the session is used by this thread alone until it has ended.
                async let finished = onThread {
                    let state = self.sqlstate(session, read)
                    return (state, ContinuousClock.now)
                }
                try await eventually("the read waits") {
                    try control.value("SELECT wait_event_type FROM pg_stat_activity WHERE pid = \(pid)")
                        == "Extension"
                }
                let called = ContinuousClock.now
                try control.execute("SELECT \(call)(\(pid))")
                let (state, ended) = await finished
                #expect(state == expected)
                return (ended - called) / .milliseconds(1)
            }
            #expect(isEndedSoon)
        }
    }

    @Test("a Redis that asks for a password is refused service and says so")
    func wrongPassword() async throws {
        let redis = try await RedisServer.start(configuration: ["requirepass right"])
        let stack = try await Stack.make(redis: redis)
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        #expect(sqlstate(session, "SELECT reactions.flags(1, 10)").hasPrefix("08"))
        try session.execute("SELECT reactions.react(1, 10, 'Like')")
        #expect(try session.value("SELECT count(*) FROM reactions._outbox") == "1")
        let row = try session.query("SELECT ok, hint FROM reactions.doctor() WHERE \"check\" = 'redis_reachable'")
        #expect(row.first?.first == "f")
        #expect(row.first?[1]?.isEmpty == false)
    }

    @Test("a ClickHouse that is gone makes a native miss unknown; one that hangs, too")
    func clickHouseGone() async throws {
        let clickHouse = try await ClickHouseServer.start()
        let stack = try await Stack.make(clickHouse: clickHouse)
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        try session.execute("SELECT reactions.react(1, 10, 'Like')")
        clickHouse.pause()
        try session.execute("SET reactions.clickhouse_timeout = '200ms'")
        #expect(sqlstate(session, "SELECT reactions.flags(1, 10)") == "08006")
        clickHouse.resume()
        clickHouse.kill()
        #expect(sqlstate(session, "SELECT reactions.flags(1, 10)") == "08006")
        try await clickHouse.restart()
        let reader = try stack.connect()
        try await eventually("the read is known") { (try? reader.value("SELECT reactions.flags(1, 10)")) == "1" }
    }

    @Test("servers that answer nonsense make a read unknown: each is asked as if it were the other")
    func nonsense() async throws {
        let redis = try await RedisServer.start()
        let clickHouse = try await ClickHouseServer.shared.value
        let stack = try await Stack.make(redis: redis, clickHouse: clickHouse)
        try stack.set("redis_url", "redis://127.0.0.1:\(clickHouse.httpPort)/0")
        for name in ["redis_connect_timeout", "redis_timeout"] { try stack.set(name, "500ms") }
        var session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        #expect(sqlstate(session, "SELECT reactions.flags(1, 10)").hasPrefix("08"))
        try session.execute("SELECT reactions.react(1, 10, 'Like')")

        try stack.set("redis_url", "unix://" + redis.socketPath)
        try stack.set("clickhouse_url", "http://127.0.0.1:\(redis.port)")
        session = try stack.connect()
        #expect(sqlstate(session, "SELECT reactions.flags(1, 10)").hasPrefix("08"))
        #expect(try session.value("SELECT count(*) FROM reactions._outbox") == "1")
    }

    @Test("a backend has one thread after a read that went to ClickHouse by host name")
    func oneThread() async throws {
        let stack = try await Stack.make(clickHouseHost: "localhost")
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        #expect(try session.value("SELECT reactions.flags(1, 10)") == "0")
        #expect(try stack.counter("clickhouse_requests", session) > 0)
        let status = try String(contentsOfFile: "/proc/\(session.backendPID)/status", encoding: .utf8)
        #expect(status.contains("Threads:\t1\n"))
    }

    @Test("a key of another type is reported, not overwritten, and invalidate removes it")
    func foreignKey() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        try stack.redis.connect().command("SET", stack.prefix + "reactions:1", "not ours")
        #expect(sqlstate(session, "SELECT reactions.flags(1, 10)") == "08P01")
        try session.execute("SELECT reactions.react(1, 10, 'Like')")
        try session.execute("SELECT reactions.invalidate('Image', 1)")
        #expect(try session.value("SELECT reactions.flags(1, 10)") == "1")
    }

    @Test("the agent loses and doubles nothing when it is killed in mid-batch twenty times")
    func killedAgent() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: "switch_reads")
        try session.execute(
            """
            SELECT reactions.add_entity_type('Post', 'exclusive');
            """)
        for round in 0..<20 {
            let agent = try stack.startAgent()
            try session.execute(
                """
                INSERT INTO "ImageReaction" ("imageId", "userId", reaction)
                SELECT random() * 2000, random() * 50, (ARRAY['Like', 'Heart', 'Cry'])[1 + floor(random() * 3)]::"ReviewReactions"
                FROM generate_series(1, 20000) ON CONFLICT DO NOTHING;
                DELETE FROM "ImageReaction" WHERE random() < 0.3;
                """)
            try session.execute(
                "SELECT reactions.react(g % 10, g % 37, (ARRAY['Like', 'Laugh'])[1 + (g + \(round)) % 2], 'Post') FROM generate_series(1, 100) g"
            )
            let target = Int.random(in: 0...2)
            try await eventually("the agent has begun") {
                switch target {
                case 0: try session.value("SELECT count(*) FROM reactions._batch WHERE finished_at IS NULL") != "0"
                case 1:
                    try session.value("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 LIMIT 1")
                        != nil
                default: try !stack.clickHouseRows("SELECT 1 FROM {db}.entityMetricEvents LIMIT 1").isEmpty
                }
            }
            agent.stop(SIGKILL)
        }
        let agent = try stack.startAgent()
        defer { agent.stop(SIGTERM) }
        try await stack.drained(session)
        try expectLevel(stack, session)
    }

    /// State and sums in ClickHouse agree with the table and with the functions; no row of an event stands twice.
    private func expectLevel(_ stack: Stack, _ session: PostgresConnection) throws {
        let table = try session.query(
            """
            SELECT "userId", "imageId", 'Reaction' || reaction FROM "ImageReaction" WHERE reaction <> 'Dislike'
            ORDER BY 1, 2, 3
            """)
        let state = try stack.clickHouseRows(
            """
            SELECT userId, entityId, metricType FROM {db}.entityMetricEvents WHERE entityType = 'Image'
            GROUP BY userId, entityId, metricType HAVING argMax(metricValue, version) > 0
            ORDER BY userId, entityId, toString(metricType)
            """)
        let sums = try stack.clickHouseRows(
            """
            SELECT userId, entityId, metricType FROM {db}.entityMetricEvents WHERE entityType = 'Image'
            GROUP BY userId, entityId, metricType HAVING sum(metricValue) > 0
            ORDER BY userId, entityId, toString(metricType)
            """)
        #expect(table.map { $0.map { $0 ?? "" } } == state)
        #expect(state == sums)
        for name in ["entityMetricEvents", "reactionsByEntity"] {
            let key =
                name == "entityMetricEvents"
                ? "entityType, userId, entityId, metricType, version" : "entityType, entityId, userId, version"
            #expect(
                try stack.clickHouseRows("SELECT \(key) FROM {db}.\(name) GROUP BY \(key) HAVING count() > 1").isEmpty)
        }
        let posts = try session.query(
            "SELECT u, e, reactions.flags(u, e, 'Post') FROM generate_series(0, 9) u, generate_series(0, 36) e WHERE reactions.flags(u, e, 'Post') <> 0 ORDER BY 1, 2"
        )
        let mirrored = try stack.clickHouseRows(
            """
            SELECT userId, entityId, sum(multiIf(metricType = 'ReactionLike', 1, metricType = 'ReactionHeart', 2, metricType = 'ReactionLaugh', 4, 8))
            FROM (SELECT userId, entityId, metricType FROM {db}.entityMetricEvents WHERE entityType = 'Post'
                  GROUP BY userId, entityId, metricType HAVING sum(metricValue) > 0)
            GROUP BY userId, entityId ORDER BY userId, entityId
            """)
        #expect(posts.map { $0.map { $0 ?? "" } } == mirrored)
        #expect(!posts.isEmpty)
    }
}
