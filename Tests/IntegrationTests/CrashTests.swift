import Glibc
import TestSupport
import Testing

@Suite("Crashes of PostgreSQL") struct CrashTests {
    @Test("what a crash takes back with synchronous_commit = off is in no cache, and its versions do no harm")
    func unflushedCommits() async throws {
        let postgres = try await PostgresServer.start(
            sharedPreloadLibraries: ["pg_reactions"], configuration: ["wal_writer_delay": "10s"])
        let stack = try await Stack.make(postgres: postgres)
        try stack.connect().execute("SELECT reactions.add_entity_type('Image')")
        var survived = 0
        for round in 1...12 {
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

            let session = try stack.connect()
            for (user, flag) in [(1, "1"), (2, "8")] {
                let events = try session.value(
                    "SELECT count(*) FROM reactions._outbox WHERE user_id = \(user) AND entity_id = \(round)")
                let served = try session.value("SELECT reactions.flags(\(user), \(round))")
                #expect(served == (events == "1" ? flag : "0"), "round \(round), user \(user)")
                if events == "1" { survived += 1 }
            }
            if round % 2 == 0 { #expect(survived > 0, "what a fill has shown is flushed") }
            try stack.redis.connect().command("UNLINK", stack.prefix + "reactions:2")
        }
    }
}
