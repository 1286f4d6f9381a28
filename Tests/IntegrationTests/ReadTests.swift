import TestSupport
import Testing

@Suite("Reading") struct ReadTests {
    @Test(
        "a native reaction is read from Redis, and from ClickHouse under the outbox when Redis has lost it",
        arguments: RedisKind.allCases)
    func native(kind: RedisKind) async throws {
        let stack = try await Stack.make(redis: kind.shared())
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        try session.execute("SELECT reactions.react(1, 10, 'Like'), reactions.react(1, 11, 'Cry')")
        try session.execute("SELECT reactions.react(1, 10, 'Heart')")
        #expect(try session.value("SELECT reactions.flags(1, 10)") == "3")
        #expect(try session.value("SELECT reactions.flags(1, 12)") == "0")

        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        try await stack.drained(session)
        try stack.redisDeployment.command("UNLINK", stack.prefix + "reactions:1")
        let rows = try session.query("SELECT entity_id, flags FROM reactions.flags_many(1, ARRAY[10, 11, 12, 10])")
        #expect(rows == [["10", "3"], ["11", "8"], ["12", "0"]])

        // An event that ClickHouse does not have yet lies over its answer.
        agent.stop(9)
        try session.execute("SELECT reactions.unreact(1, 10, 'Like')")
        try stack.redisDeployment.command("UNLINK", stack.prefix + "reactions:1")
        #expect(try session.value("SELECT reactions.flags(1, 10)") == "2")
    }

    @Test(
        "a second read of a user asks Redis only, and a read of many rows makes at most two round trips",
        arguments: RedisKind.allCases)
    func roundTrips(kind: RedisKind) async throws {
        let postgres = try await PostgresServer.start()
        let stack = try await Stack.make(postgres: postgres, redis: kind.shared())
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        try session.execute("SELECT reactions.react(2, g, 'Like') FROM generate_series(1, 50) g")
        #expect(
            try session.value(
                "SELECT count(*) FROM reactions.flags_many(2, ARRAY(SELECT g FROM generate_series(1, 100) g)) WHERE flags = 1"
            ) == "50")

        // Not preloaded: the counters are the session's.
        let misses = try stack.counter("misses", session)
        let trips = try stack.counter("redis_round_trips", session)
        #expect(
            try session.value("SELECT sum(reactions.flags(2, g)) FROM generate_series(1, 100) g") == "50")
        #expect(try stack.counter("misses", session) == misses)
        #expect(try stack.counter("redis_round_trips", session) - trips <= 2)
    }

    @Test(
        "an attached table answers misses, its changes reach the map, and another session sees them after the commit",
        arguments: RedisKind.allCases)
    func attached(kind: RedisKind) async throws {
        let stack = try await Stack.make(redis: kind.shared())
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: "switch_reads")
        try session.execute(
            "INSERT INTO \"ImageReaction\" (\"imageId\", \"userId\", reaction) VALUES (5, 3, 'Laugh'), (6, 3, 'Dislike')"
        )
        let reader = try stack.connect()
        #expect(
            try reader.query("SELECT * FROM reactions.flags_many(3, ARRAY[5, 6, 7])") == [
                ["5", "4"], ["6", "0"], ["7", "0"],
            ])

        // The map is complete now: the writer's apply at commit, or else the agent, keeps it right.
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        try session.execute("DELETE FROM \"ImageReaction\" WHERE \"imageId\" = 5")
        try session.execute("SELECT reactions.react(3, 7, 'Heart')")
        try await eventually("the map shows the changes") {
            try reader.query("SELECT * FROM reactions.flags_many(3, ARRAY[5, 6, 7])") == [
                ["5", "0"], ["6", "0"], ["7", "2"],
            ]
        }
        #expect(try reader.query("SELECT * FROM reactions.by_user(3)") == [["7", "2"]])
    }

    @Test(
        "a transaction reads its own changes, a rolled back savepoint leaves none, and nothing of it enters the cache",
        arguments: RedisKind.allCases)
    func ownChanges(kind: RedisKind) async throws {
        let stack = try await Stack.make(redis: kind.shared())
        let session = try stack.connect()
        let other = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        try session.execute("BEGIN; SELECT reactions.react(4, 1, 'Like')")
        #expect(try session.value("SELECT reactions.flags(4, 1)") == "1")
        try session.execute("SAVEPOINT a; SELECT reactions.react(4, 1, 'Heart')")
        #expect(try session.value("SELECT reactions.flags(4, 1)") == "3")
        try session.execute("ROLLBACK TO a")
        #expect(try session.value("SELECT reactions.flags(4, 1)") == "1")
        #expect(try other.value("SELECT reactions.flags(4, 1)") == "0")
        try session.execute("ROLLBACK")
        #expect(try session.value("SELECT reactions.flags(4, 1)") == "0")
        #expect(try other.value("SELECT reactions.flags(4, 1)") == "0")
    }

    @Test(
        "a session that has just connected sees what it has written, without the agent", arguments: RedisKind.allCases)
    func readYourWrites(kind: RedisKind) async throws {
        let stack = try await Stack.make(redis: kind.shared())
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: "switch_reads")
        #expect(try session.value("SELECT reactions.flags(9, 1)") == "0")
        var entity = 0
        for (kind, flag) in [("Like", "1"), ("Heart", "2"), ("Cry", "8")] {
            // A commit waits for Redis no longer than 20 ms, and leaves the rest to the agent: a busy machine may take them.
            try await eventually("a commit is in Redis") {
                entity += 1
                let fresh = try stack.connect()
                try fresh.execute(
                    """
                    INSERT INTO "ImageReaction" ("imageId", "userId", reaction) VALUES (\(entity), 9, '\(kind)')
                    """)
                let read = try [fresh, session].map { try $0.value("SELECT reactions.flags(9, \(entity))") }
                #expect(Set(read).isSubset(of: [flag, "0"]))
                return read == [flag, flag]
            }
        }
        #expect(entity < 50)
    }

    @Test("a user with more reactions than a map holds is read by ids and by pages", arguments: RedisKind.allCases)
    func partialMap(kind: RedisKind) async throws {
        let stack = try await Stack.make(redis: kind.shared())
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        try session.execute("UPDATE reactions.entity_type SET user_map_limit = 20")
        try session.execute("SELECT reactions.react(5, g, 'Like') FROM generate_series(1, 100) g")
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        try await stack.drained(session)
        #expect(
            try session.query("SELECT * FROM reactions.flags_many(5, ARRAY[1, 100, 101])") == [
                ["1", "1"], ["100", "1"], ["101", "0"],
            ])
        #expect(
            try session.query("SELECT * FROM reactions.flags_many(5, ARRAY[2, 100, 101])") == [
                ["2", "1"], ["100", "1"], ["101", "0"],
            ])
        #expect(
            try session.query("SELECT entity_id FROM reactions.by_user(5, 'Like', 3, 97)") == [["98"], ["99"], ["100"]])
        try session.execute("SELECT reactions.unreact(5, 100, 'Like')")
        try await eventually("the page shows the change") {
            try session.query("SELECT entity_id FROM reactions.by_user(5, 'Like', 3, 97)") == [["98"], ["99"]]
        }
    }

    @Test("TRUNCATE of an attached table is seen by readers at once and mirrored", arguments: RedisKind.allCases)
    func truncate(kind: RedisKind) async throws {
        let stack = try await Stack.make(redis: kind.shared())
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: "switch_reads")
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        try session.execute(
            "INSERT INTO \"ImageReaction\" (\"imageId\", \"userId\", reaction) SELECT g, g % 7, 'Like' FROM generate_series(1, 70) g"
        )
        #expect(try session.value("SELECT reactions.flags(3, 3)") == "1")
        try await stack.drained(session)
        try session.execute("TRUNCATE \"ImageReaction\"")
        #expect(try session.value("SELECT reactions.flags(3, 3)") == "0")
        try session.execute("INSERT INTO \"ImageReaction\" (\"imageId\", \"userId\", reaction) VALUES (3, 3, 'Cry')")
        try await stack.drained(session)
        #expect(
            try stack.clickHouseRows(
                """
                SELECT userId, entityId, metricType FROM (
                    SELECT userId, entityId, metricType, argMax(metricValue, version) AS value, sum(metricValue) AS total
                    FROM {db}.entityMetricEvents WHERE entityType = 'Image' GROUP BY userId, entityId, metricType)
                WHERE value > 0 OR total > 0
                """) == [["3", "3", "ReactionCry"]])
    }
}
