import Glibc
import TestSupport
import Testing

@Suite("Crashes of PostgreSQL") struct CrashTests {
    @Test(
        "what a crash takes back with synchronous_commit = off is in no cache, and its versions do no harm",
        arguments: RedisKind.allCases)
    func unflushedCommits(kind: RedisKind) async throws {
        let postgres = try await PostgresServer.start(
            sharedPreloadLibraries: ["pg_reactions"], configuration: ["wal_writer_delay": "10s"])
        let stack = try await Stack.make(postgres: postgres, redis: try await kind.shared())
        try stack.connect().execute("SELECT reactions.add_entity_type('Image')")
        for round in 1...8 {
            let writer = try stack.connect()
            let reader = try stack.connect()
            // The map is complete, so an apply or a fill of what is lost would stay.
            #expect(try reader.value("SELECT reactions.flags(1, \(round))") == "0")
            try writer.execute("SET synchronous_commit = off")
            try writer.execute("SELECT reactions.react(1, \(round), 'Like'), reactions.react(2, \(round), 'Cry')")
            // Every other round somebody fills a map with it before the crash.
            if round % 2 == 0 { #expect(try reader.value("SELECT reactions.flags(2, \(round))") == "8") }
            postgres.stop(SIGQUIT)
            try await postgres.start()

            // Before the agent has applied what survived, a read may be older than it, never newer.
            let session = try stack.connect()
            var expected: [Int: String] = [:]
            for (user, flag) in [(1, "1"), (2, "8")] {
                let events = try session.value(
                    "SELECT count(*) FROM reactions._outbox WHERE user_id = \(user) AND entity_id = \(round)")
                let served = try session.value("SELECT reactions.flags(\(user), \(round))")
                expected[user] = events == "1" ? flag : "0"
                #expect(served == "0" || served == expected[user], "round \(round), user \(user)")
            }
            if round % 2 == 0 { #expect(expected[2] == "8", "what a fill has shown is flushed") }
            let agent = try stack.startAgent()
            try await stack.drained(session)
            agent.stop(SIGTERM)
            for user in 1...2 {
                let served = try session.value("SELECT reactions.flags(\(user), \(round))")
                #expect(served == expected[user], "round \(round), user \(user)")
            }
            try stack.redisDeployment.command("UNLINK", stack.prefix + "reactions:2")
        }
    }
}
