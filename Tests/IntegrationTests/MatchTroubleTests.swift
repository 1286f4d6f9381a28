import TestSupport
import Testing

@Suite("Match, with trouble", .serialized) struct MatchTroubleTests {
    @Test("a truncated table, a kind that was added, a column that was dropped, an index that is gone")
    func alteredTable() async throws {
        let site = try MatchSite.make(try await Stack.make(), rows: 5_000)
        let agent = try site.agent()
        defer { agent.stop(15) }
        try await site.site.sealed()
        try site.session.execute(
            """
            ALTER TYPE "ReviewReactions" ADD VALUE 'Rage';
            """)
        try site.session.execute("SELECT reactions.add_kind('Image', 'Rage')")
        try site.session.execute(
            "INSERT INTO \"ImageReaction\" (\"userId\", \"imageId\", reaction) VALUES (7, 3000000, 'Rage')")
        try await site.stack.drained(site.session)
        #expect(await site.match().hasEndedWell)
        try site.unseen("UPDATE \"ImageReaction\" SET reaction = 'Cry' WHERE reaction = 'Rage'")
        #expect(!(await site.match().hasEndedWell))
        #expect(try site.differences() == [["different", "7", "3000000", "8", "16"]])
        #expect(await site.match("--repair").hasEndedWell)

        // Without its index the table may hold a reaction twice: it is one, but each row was captured as a change.
        try site.session.execute(
            """
            DROP INDEX "ImageReaction_key";
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction) VALUES (7, 3000000, 'Cry'), (7, 3000000, 'Cry')
            """)
        try await site.stack.drained(site.session)
        #expect(!(await site.match().hasEndedWell))
        #expect(try site.differences() == [["sums", "7", "3000000", "8", "8"]])
        try site.session.execute("SELECT reactions.restart_backfill('Image')")
        try await site.site.sealed()
        #expect(await site.match().hasEndedWell)

        try site.session.execute("TRUNCATE \"ImageReaction\"")
        try await site.site.sealed()
        try await site.stack.drained(site.session)
        #expect(await site.match().hasEndedWell)
        #expect(try site.run()[0] == "0")

        try site.session.execute("ALTER TABLE \"ImageReaction\" DROP COLUMN reaction CASCADE")
        let broken = await site.match()
        #expect(!broken.hasEndedWell && broken.output.contains("reaction"), "\(broken.output)")
        #expect(try site.run()[5] == "f")
        #expect(
            try site.session.value("SELECT error FROM reactions.match_run ORDER BY match_run_id DESC LIMIT 1")?
                .contains(
                    "42703") == true)
    }

    @Test("a kind that the type does not have ends a match, with a hint")
    func unknownKind() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try session.execute(
            """
            CREATE TABLE r (u bigint, e bigint, k text, PRIMARY KEY (u, e, k));
            SELECT reactions.attach('r', 'Image', 'u', 'e', 'k');
            ALTER TABLE r DISABLE TRIGGER USER;
            INSERT INTO r VALUES (1, 1, 'Rage')
            """)
        do {
            try await stack.reactiond("match")
            Issue.record("the match ended well")
        } catch {
            #expect("\(error)".contains("Rage") && "\(error)".contains("reactions.add_kind"), "\(error)")
        }
        do {
            try await stack.reactiond("match", "--type", "Nothing")
            Issue.record("the match ended well")
        } catch {
            #expect("\(error)".contains("does not exist"), "\(error)")
        }
    }

    @Test("a match whose ClickHouse goes away, or that is killed, is unfinished, and the next one is not kept waiting")
    func trouble() async throws {
        let clickHouse = try await ClickHouseServer.start()
        let site = try MatchSite.make(try await Stack.make(clickHouse: clickHouse), rows: 20_000)
        let agent = try site.agent()
        try await site.site.sealed()
        try site.unseen("DELETE FROM \"ImageReaction\" WHERE \"userId\" = 5")
        agent.stop(15)

        // Held up in its middle by a lock on the table.
        let blocker = try site.stack.connect()
        func blocked(_ body: (ServerProcess) async throws -> Void) async throws {
            try blocker.execute("BEGIN; LOCK TABLE \"ImageReaction\" IN ACCESS EXCLUSIVE MODE")
            let match = try site.stack.start("match")
            try await eventually {
                try site.session.value(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '\"ImageReaction\"'::regclass")
                    == "1"
            }
            try await body(match)
        }
        try await blocked { match in
            // Two at once: the second is told so.
            let second = await site.match("--set", "match.patience=500ms")
            #expect(!second.hasEndedWell && second.output.contains("another match is running"), "\(second.output)")
            match.stop(9)
            try blocker.execute("ROLLBACK")
        }
        #expect(try site.run()[5] == "f")
        #expect(try site.session.value("SELECT count(*) FROM reactions.difference") == "0")

        try await blocked { match in
            clickHouse.stop()
            try blocker.execute("ROLLBACK")
            try await eventually { !match.isRunning }
        }
        #expect(try site.run()[5] == "f")
        #expect(
            try site.session.value(
                "SELECT error IS NOT NULL FROM reactions.match_run ORDER BY match_run_id DESC LIMIT 1") == "t")
        #expect(try site.session.value("SELECT count(*) FROM reactions.difference") == "0")

        try await clickHouse.restart()
        #expect(!(await site.match("--max-repairs", "1000", "--repair").output.isEmpty))
        #expect(try Set(site.differences().map { $0[1] }) == ["5"])
        #expect(try site.run()[1] == site.run()[2])
    }

    @Test("nothing is lost to session_replication_role, and a backfill that begins in mid-match voids it")
    func replicaRole() async throws {
        let site = try MatchSite.make(try await Stack.make(), rows: 5_000)
        let agent = try site.agent()
        defer { agent.stop(15) }
        try await site.site.sealed()
        try site.session.execute(
            """
            SET session_replication_role = replica;
            DELETE FROM "ImageReaction" WHERE "userId" = 3;
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction) VALUES (3, 1, 'Cry');
            RESET session_replication_role
            """)
        try await site.stack.drained(site.session)
        #expect(await site.match().hasEndedWell)
        try await site.site.expectAgreement()

        let blocker = try site.stack.connect()
        try blocker.execute("BEGIN; LOCK TABLE \"ImageReaction\" IN ACCESS EXCLUSIVE MODE")
        async let match = site.match()
        try await eventually {
            try site.session.value(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '\"ImageReaction\"'::regclass") == "1"
        }
        try blocker.execute("SELECT reactions.restart_backfill('Image'); COMMIT")
        let voided = await match
        #expect(!voided.hasEndedWell && voided.output.contains("backfilled anew"), "\(voided.output)")
        #expect(try site.run()[5] == "f")
    }
}
