import Foundation
import TestSupport
import Testing

@Suite("Rollback from stop_writes, with trouble", .serialized) struct RollbackTroubleTests {
    /// A writer that does not end: as long as it is there, no rollback does.
    private func gate(_ site: RollbackSite) throws -> PostgresConnection {
        let writer = try site.stack.connect()
        try writer.execute("BEGIN; SELECT reactions.react(1, 999999, 'Like')")
        return writer
    }

    @Test("an agent that is killed in the middle leaves nothing undone and nothing done twice")
    func killed() async throws {
        let (site, first) = try await RollbackSite.frozen()
        var agent = first
        defer { agent.stop(15) }
        try site.change(40_000)
        try await site.stack.drained(site.session)
        let writer = try RollbackWriter(site, seed: 0)
        async let report = writer.write()
        async let refusal = site.rollBack()
        var kills = 0
        for _ in 1...3 {
            let before = try site.session.value("SELECT sum(keys_done) FROM reactions.write_back") ?? "0"
            // By this agent, and not by the one before it.
            try await eventually("the next part is written") {
                try site.session.value(
                    """
                    SELECT term = \(kills + 1) AND keys_done > \(before) OR finished_at IS NOT NULL FROM reactions.write_back
                    """) == "t"
            }
            agent.stop(9)
            if try site.session.value("SELECT finished_at IS NULL FROM reactions.write_back") == "t" { kills += 1 }
            agent = try site.stack.startAgent()
        }
        let error = try await refusal
        #expect(error == nil, "\(String(describing: error)) \(site.stack.agentLog().suffix(2000))")
        writer.stop()
        #expect(Set(await report.failures.keys).isSubset(of: ["40001"]))
        #expect(kills >= 2)
        #expect(try site.session.value("SELECT term FROM reactions.write_back") == "\(kills + 1)")
        #expect(try site.phase() == "switch_reads")
        try await site.expectAgreement()
    }

    @Test("a standby that is promoted in the middle of a rollback ends it, or leaves it to the next one")
    func promotedStandby() async throws {
        let primary = try await PostgresServer.start(sharedPreloadLibraries: ["pg_reactions"])
        let (site, first) = try await RollbackSite.frozen(try await Stack.make(postgres: primary))
        var agent = first
        defer { agent.stop(15) }
        try site.change(20_000)
        try await site.stack.drained(site.session)
        let replica = try await PostgresServer.start(sharedPreloadLibraries: ["pg_reactions"]) { path in
            try await PostgresServer.tool(
                "pg_basebackup",
                [
                    "--pgdata", path, "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname",
                    primary.conninfo(),
                ])
        }
        let standby = try replica.connect(database: site.stack.database)
        let gate = try gate(site)
        async let failed = site.rollBack()
        try await eventually("the standby has some of it") {
            try standby.value("SELECT keys_done > 2000 FROM reactions.write_back") == "t"
        }
        primary.stop(SIGQUIT)
        #expect(try await failed != nil)
        withExtendedLifetime(gate) {}
        agent.stop(SIGKILL)
        try standby.execute("SELECT pg_promote()")
        let moved = try site.stack.moved(to: replica)
        let again = RollbackSite(stack: moved, session: try moved.connect())
        #expect(try again.session.value("SELECT finished_at IS NULL FROM reactions.write_back") == "t")
        #expect(try again.phase() == "stop_writes")
        try again.session.execute("SELECT reactions.set_flags(1, 10000, 9)")
        agent = try moved.startAgent()
        // Who asked for it is gone: it ends in time, or is withdrawn.
        try await eventually("it is over") {
            try again.session.value("SELECT finished_at IS NOT NULL FROM reactions.write_back") == "t"
        }
        if try again.phase() == "stop_writes" {
            #expect(try again.session.value("SELECT state FROM reactions.write_back") == "withdrawn")
            let error = try await again.rollBack()
            #expect(error == nil, "\(String(describing: error))")
        }
        #expect(try again.phase() == "switch_reads")
        try await again.expectAgreement()
    }

    @Test("while ClickHouse is away a rollback waits and says so, and writers go on")
    func withoutClickHouse() async throws {
        let clickHouse = try await ClickHouseServer.start()
        let (site, agent) = try await RollbackSite.frozen(try await Stack.make(clickHouse: clickHouse))
        defer { agent.stop(15) }
        try site.change(500)
        try await site.stack.drained(site.session)
        clickHouse.kill()
        async let refusal = site.rollBack()
        try await eventually("it says so") {
            try site.session.value("SELECT error IS NOT NULL FROM reactions.write_back") == "t"
        }
        try site.session.execute("SELECT reactions.react(3, 99, 'Cry')")
        #expect(try site.phase() == "stop_writes")
        try await clickHouse.restart()
        let error = try await refusal
        #expect(error == nil, "\(String(describing: error))")
        #expect(try site.phase() == "switch_reads")
        #expect(try site.session.value("SELECT error FROM reactions.write_back") == nil)
        try await site.expectAgreement()
    }

    @Test("what a ClickHouse has lost at a restart, before the mirror has looked, comes into the table from the outbox")
    func lostByClickHouse() async throws {
        let clickHouse = try await ClickHouseServer.start()
        let (site, agent) = try await RollbackSite.frozen(try await Stack.make(clickHouse: clickHouse))
        defer { agent.stop(15) }
        try site.session.execute("SELECT reactions.set_flags(3, 990, 5), reactions.set_flags(3, 991, 2)")
        try await site.stack.drained(site.session)
        try await clickHouse.restart()
        for table in ["entityMetricEvents", "reactionsByEntity", "reactionDeltas"] {
            _ = try site.stack.clickHouseRows("ALTER TABLE {db}.\(table) DELETE WHERE entityId IN (990, 991)")
        }
        try await eventually("the rows are gone") {
            try site.stack.clickHouseRows("SELECT count() FROM {db}.entityMetricEvents WHERE entityId IN (990, 991)")
                == [["0"]]
        }
        let error = try await site.rollBack()
        #expect(error == nil, "\(String(describing: error))")
        #expect(try site.rows().filter { ["990", "991"].contains($0[1]) }.count == 3)
    }

    @Test("a crash of PostgreSQL in the middle of a rollback loses nothing")
    func crash() async throws {
        let postgres = try await PostgresServer.start(sharedPreloadLibraries: ["pg_reactions"])
        let (site, agent) = try await RollbackSite.frozen(try await Stack.make(postgres: postgres))
        defer { agent.stop(15) }
        try site.change(20_000)
        try await site.stack.drained(site.session)
        let gate = try gate(site)
        async let crashed = site.rollBack()
        try await eventually("something is written") {
            try site.session.value("SELECT keys_done > 2000 FROM reactions.write_back") == "t"
        }
        postgres.stop(SIGQUIT)
        #expect(try await crashed != nil)
        withExtendedLifetime(gate) {}
        try await postgres.start()
        let again = RollbackSite(stack: site.stack, session: try site.stack.connect())
        #expect(try again.session.value("SELECT finished_at IS NULL FROM reactions.write_back") == "t")
        try again.session.execute("SELECT reactions.set_flags(1, 10000, 9)")
        // Finished within the time that nobody need say that he waits, or withdrawn after it.
        try await eventually("it is over") {
            try again.session.value("SELECT finished_at IS NOT NULL FROM reactions.write_back") == "t"
        }
        if try again.phase() == "stop_writes" {
            #expect(try again.session.value("SELECT state FROM reactions.write_back") == "withdrawn")
            let error = try await again.rollBack()
            #expect(error == nil, "\(String(describing: error))")
        }
        #expect(try again.phase() == "switch_reads")
        try await again.expectAgreement()
    }
}
