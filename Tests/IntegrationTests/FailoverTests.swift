import Glibc
import TestSupport
import Testing

@Suite("Failover", .serialized) struct FailoverTests {
    /// A primary with an attached table in a phase, and its replica, which has everything so far.
    private func pair(_ phase: String) async throws -> (old: Stack, replica: PostgresServer) {
        let primary = try await PostgresServer.start(sharedPreloadLibraries: ["pg_reactions"])
        let stack = try await Stack.make(postgres: primary)
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: phase == "attached" ? "attached" : "switch_reads")
        if phase == "dual_read" { try session.execute("CALL reactions.rollback('Image')") }
        if phase == "stop_writes" { try session.execute("CALL reactions.advance('Image', force => true)") }
        try write(session, users: 1...20)
        let replica = try await PostgresServer.start(sharedPreloadLibraries: ["pg_reactions"]) { path in
            try await PostgresServer.tool(
                "pg_basebackup",
                [
                    "--pgdata", path, "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname",
                    primary.conninfo(),
                ])
        }
        return (stack, replica)
    }

    private func write(_ session: PostgresConnection, users: ClosedRange<Int>) throws {
        for user in users {
            try session.execute(
                "SELECT reactions.react(\(user), \(user % 7), 'Heart'), reactions.react(\(user), 3, 'Like')")
        }
    }

    /// As the functions answer, user by user.
    private func answers(_ session: PostgresConnection) throws -> [[String?]] {
        try session.query(
            "SELECT u, f.* FROM generate_series(1, 60) u, reactions.flags_many(u, ARRAY[0, 1, 2, 3, 4, 5, 6]) f WHERE f.flags <> 0 ORDER BY 1, 2"
        )
    }

    @Test(
        "a failover that loses commits leaves table, Redis and ClickHouse agreeing on what has survived",
        arguments: ["attached", "dual_read", "switch_reads", "stop_writes"])
    func losesCommits(phase: String) async throws {
        let (old, replica) = try await pair(phase)
        var agent = try old.startAgent()
        defer { agent.stop(SIGTERM) }
        let session = try old.connect()
        try await old.drained(session)
        // Cut off, the replica misses what ClickHouse and Redis still get.
        let standby = try await cutOff(replica, from: session)
        try write(session, users: 21...40)
        try session.execute("SELECT reactions.unreact(1, 3, 'Like')")
        _ = try answers(session)
        try await old.drained(session)
        agent.stop(SIGKILL)
        old.postgres.stop(SIGQUIT)

        try standby.execute("SELECT pg_promote()")
        let new = try old.moved(to: replica)
        let survivor = try new.connect()
        #expect(try survivor.value("SELECT phase FROM reactions.status()") == phase)
        try write(survivor, users: 31...50)
        agent = try new.startAgent()
        try await new.drained(survivor)
        if phase == "stop_writes" {
            // What the primary has acknowledged and ClickHouse confirmed is not lost, although PostgreSQL has lost it.
            let users = Set(try answers(survivor).compactMap { $0[0] })
            #expect(users == Set((1...50).map { String($0) }))
            #expect(try survivor.value("SELECT reactions.flags(1, 3)") == "0")
            return
        }
        #expect(try survivor.value("SELECT match_wanted IS NOT NULL FROM reactions.mirror_status") == "t")
        // What both have written counts twice in the sums, which no event mends: the table is brought over anew.
        let found = await #expect(throws: TestSupportError.self) { try await new.reactiond("match", "--repair") }
        #expect("\(found, default: "")".contains("restart_backfill('Image')"))
        try await new.drained(survivor)
        try survivor.execute("SELECT reactions.restart_backfill('Image')")
        try await eventually("the table is brought over anew") {
            try survivor.value("SELECT backfilled FROM reactions.status()") == "t"
        }
        _ = try await new.reactiond("match")
        let table = try survivor.query(
            """
            SELECT "userId", "imageId", sum(CASE reaction WHEN 'Like' THEN 1 ELSE 2 END) FROM "ImageReaction" GROUP BY 1, 2 ORDER BY 1, 2
            """)
        #expect(try answers(survivor) == table)
        let mirrored = try new.clickHouseRows(
            """
            SELECT userId, entityId, sum(if(metricType = 'ReactionLike', 1, 2)) FROM (
                SELECT userId, entityId, metricType FROM {db}.entityMetricEvents GROUP BY userId, entityId, metricType
                HAVING argMax(metricValue, version) > 0)
            GROUP BY userId, entityId ORDER BY userId, entityId
            """)
        #expect(mirrored == table.map { $0.map { $0 ?? "" } })
        #expect(table.contains { $0[0] == "1" && $0[1] == "3" }, "the lost change is no change")
    }

    /// From now on the replica, which has everything so far, gets nothing any more.
    private func cutOff(_ replica: PostgresServer, from session: PostgresConnection) async throws -> PostgresConnection
    {
        let end = try session.value("SELECT pg_current_wal_flush_lsn()") ?? ""
        let standby = try replica.connect()
        try await eventually { try standby.value("SELECT pg_last_wal_replay_lsn() >= '\(end)'::pg_lsn") == "t" }
        try standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        try standby.execute("SELECT pg_reload_conf()")
        try await eventually { try session.value("SELECT count(*) FROM pg_stat_replication") == "0" }
        return standby
    }

    @Test(
        "a failover that loses commits of a type whose table is archived loses no reaction, and the table comes back",
        arguments: [false, true])
    func archived(losesTheArchive: Bool) async throws {
        let (old, replica) = try await pair("stop_writes")
        var agent = try old.startAgent()
        defer { agent.stop(SIGTERM) }
        let session = try old.connect()
        try await old.drained(session)
        let directory = old.path("archive")
        let archive = ["Image", "--to", directory, "--then", "drop"]
        let standby: PostgresConnection
        if losesTheArchive {
            standby = try await cutOff(replica, from: session)
            _ = try await old.reactiond("archive", archive)
        } else {
            _ = try await old.reactiond("archive", archive)
            standby = try await cutOff(replica, from: session)
        }
        try write(session, users: 21...40)
        try session.execute("SELECT reactions.unreact(1, 3, 'Like')")
        try await old.drained(session)
        agent.stop(SIGKILL)
        old.postgres.stop(SIGQUIT)

        try standby.execute("SELECT pg_promote()")
        let new = try old.moved(to: replica)
        let survivor = try new.connect()
        #expect(
            try survivor.value("SELECT phase FROM reactions.status()") == (losesTheArchive ? "stop_writes" : "archived")
        )
        try write(survivor, users: 31...50)
        agent = try new.startAgent()
        try await new.drained(survivor)
        if losesTheArchive {
            #expect(try survivor.value("SELECT to_regclass('\"ImageReaction\"') IS NOT NULL") == "t")
            // The match that a failover asks for comes first; then the files are found to be what the table is.
            try await eventually("what was written is used") {
                try survivor.value("SELECT match_wanted IS NULL FROM reactions.mirror_status") == "t"
            }
            #expect(try await new.reactiond("archive", archive).contains("has a finished archive: checking it"))
            #expect(try survivor.value("SELECT phase FROM reactions.status()") == "archived")
        }
        #expect(Set(try answers(survivor).compactMap { $0[0] }) == Set((1...50).map { String($0) }))
        #expect(try survivor.value("SELECT reactions.flags(1, 3)") == "0")
        let read = try answers(survivor)
        _ = try await new.reactiond("restore", "Image", "--from", directory, "--rollback")
        let table = try survivor.query(
            """
            SELECT "userId", "imageId", sum(CASE reaction WHEN 'Like' THEN 1 ELSE 2 END) FROM "ImageReaction" GROUP BY 1, 2 ORDER BY 1, 2
            """)
        #expect(table == read)
    }
}
