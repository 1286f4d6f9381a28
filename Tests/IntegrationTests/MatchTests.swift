import Foundation
import TestSupport
import Testing

@Suite("Match", .serialized) struct MatchTests {
    @Test("a table and its mirror agree while it is written to, in slices of any size")
    func agreement() async throws {
        let site = try MatchSite.make(try await Stack.make())
        let agent = try site.agent()
        defer { agent.stop(15) }
        try await site.site.sealed()
        let reactions = try site.session.value(
            """
            SELECT count(*) FROM (SELECT DISTINCT "userId", "imageId" FROM "ImageReaction" WHERE reaction <> 'Dislike') d
            """)
        try await site.stack.drained(site.session)
        let whole = await site.match()
        #expect(whole.hasEndedWell && whole.output.contains("100 %"), "\(whole.output)")
        #expect(try site.run() == [reactions, "0", "0", "0", "{}", "t"])
        #expect(try site.session.value("SELECT ok FROM reactions.readiness('Image') WHERE condition = 'match'") == "t")
        // A slice is about as large as asked for, so this is many of them.
        let writer = try site.stack.connect()
        let isWriting = Flag(true)
        let writing = Task.detached {
            await onThread {
                var seed = 0
                while isWriting.value {
                    try? MatchSite.write(writer, seed: seed)
                    seed += 1
                }
                return seed
            }
        }
        let sliced = await site.match("--set", "match.slice_rows=700", "--set", "match.patience=3s")
        isWriting.value = false
        #expect(await writing.value > 10)
        #expect(sliced.hasEndedWell, "\(sliced.output)")
        let run = try site.run()
        #expect(run[1] == "0" && run[5] == "t", "\(run) \(sliced.output)")
    }

    @Test("what capture did not see is found, told apart, shown, and repaired in ClickHouse and Redis")
    func repair() async throws {
        let site = try MatchSite.make(try await Stack.make())
        let agent = try site.agent()
        defer { agent.stop(15) }
        try await site.site.sealed()
        // Likes 1; laughs and hearts 2; has nothing 3; and a user whom ClickHouse does not know at all.
        try site.session.execute(
            """
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction) VALUES
                (201, 1, 'Like'), (201, 2, 'Laugh'), (201, 2, 'Heart'), (201, 4, 'Dislike')
            """)
        try await site.stack.drained(site.session)
        #expect(await site.match().hasEndedWell)
        try site.unseen(
            """
            DELETE FROM "ImageReaction" WHERE "userId" = 201 AND "imageId" = 1;
            UPDATE "ImageReaction" SET reaction = 'Cry' WHERE "userId" = 201 AND "imageId" = 2 AND reaction = 'Laugh';
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction, "createdAt") VALUES
                (201, 3, 'Like', '2021-02-03'), (2147483647, 2147483647, 'Heart', '2021-02-03'), (-5, 0, 'Cry', '2021-02-03'),
                (201, 5, 'Dislike', '2021-02-03')
            """)
        let found = await site.match("--dry-run")
        #expect(!found.hasEndedWell)
        #expect(found.output.contains("5 differ (3 missing, 1 phantom, 1 different)"), "\(found.output)")
        #expect(
            found.output.contains(
                "different: user 201, entity 2: table Heart, Cry; ClickHouse Heart, Laugh; --repair would write Heart, Cry"
            ),
            "\(found.output)")
        #expect(
            try site.differences() == [
                ["different", "201", "2", "10", "6"], ["missing", "-5", "0", "8", "0"],
                ["missing", "201", "3", "1", "0"], ["missing", "2147483647", "2147483647", "2", "0"],
                ["phantom", "201", "1", "0", "1"],
            ])
        #expect(try site.session.value("SELECT ok FROM reactions.readiness('Image') WHERE condition = 'match'") == "f")

        // More than may be repaired: nothing is.
        let refused = await site.match("--repair", "--max-repairs", "4")
        #expect(!refused.hasEndedWell && refused.output.contains("nothing was"), "\(refused.output)")
        #expect(try site.session.value("SELECT count(*) FROM reactions._outbox WHERE NOT delta_known") == "0")

        // Redis has the maps of the time before.
        try site.session.execute("UPDATE reactions.entity_type SET phase = 'switch_reads'")
        #expect(try site.session.value("SELECT reactions.flags(201, 1)") == "0")
        let repaired = await site.match("--repair")
        #expect(repaired.hasEndedWell && repaired.output.contains("5 repaired"), "\(repaired.output)")
        #expect(try site.run().prefix(3).suffix(2) == ["5", "5"])
        #expect(
            try site.session.value("SELECT count(*) FROM reactions.differences WHERE repaired_at IS NOT NULL") == "5")
        try await site.site.expectAgreement("after the repair")
        // The time of the row, and not of its repair.
        let created = try site.stack.clickHouseRows(
            "SELECT toDate(createdAt) FROM {db}.entityMetricEvents WHERE userId = 201 AND entityId = 3")
        #expect(created == [["2021-02-03"]])
        #expect(await site.match().hasEndedWell)
        #expect(try site.run()[1] == "0")
    }

    @Test("wrong sums are told, are not repaired by an event, and agree after a backfill that is begun anew")
    func sums() async throws {
        let site = try MatchSite.make(try await Stack.make(), rows: 5_000)
        let agent = try site.agent()
        defer { agent.stop(15) }
        try await site.site.sealed()
        // A row of an old version: the state is as before.
        _ = try site.stack.clickHouseRows(
            """
            INSERT INTO {db}.entityMetricEvents SELECT entityType, entityId, userId, metricType, metricValue, createdAt, toInt64(1), batch, part
            FROM {db}.entityMetricEvents WHERE userId = 8 ORDER BY entityId LIMIT 1
            """)
        let found = await site.match("--repair")
        #expect(!found.hasEndedWell)
        #expect(
            found.output.contains("1 differ (1 sums)") && found.output.contains("restart_backfill('Image')"),
            "\(found.output)")
        #expect(try site.session.value("SELECT count(*) FROM reactions._outbox WHERE NOT delta_known") == "0")
        try site.session.execute("SELECT reactions.restart_backfill('Image')")
        #expect(try site.session.value("SELECT ok FROM reactions.readiness('Image') WHERE condition = 'match'") == "f")
        try await site.site.sealed()
        #expect(await site.match().hasEndedWell)
        try await site.site.expectAgreement()
    }

    @Test("what the mirror has not brought yet is no difference, and is said to be in flight")
    func inFlight() async throws {
        let site = try MatchSite.make(try await Stack.make(), rows: 5_000)
        let agent = try site.agent()
        try await site.site.sealed()
        try await site.stack.drained(site.session)
        agent.stop(15)
        try MatchSite.write(site.session, seed: 1)
        let changed = try site.session.value(
            "SELECT count(*) FROM (SELECT DISTINCT user_id, entity_id FROM reactions._outbox o WHERE version > (SELECT floor FROM reactions._mirror)) k"
        )
        let found = await site.match("--set", "match.patience=1s")
        #expect(found.hasEndedWell && found.output.contains("on their way"), "\(found.output)")
        let run = try site.run()
        #expect(run[1] == "0" && (Int(run[3]) ?? 0) > 10, "\(run) of \(changed ?? "")")
        // The mirror comes back while a match waits for it.
        async let waiting = site.match("--set", "match.patience=60s")
        try await eventually {
            try site.session.value("SELECT count(*) FROM reactions.match_run WHERE finished_at IS NULL") == "1"
        }
        let again = try site.agent()
        defer { again.stop(15) }
        #expect(await waiting.hasEndedWell)
        #expect(try site.run()[3] == "0")
    }

    @Test("a table that takes no more writes is compared with what was true when it was closed")
    func closedTable() async throws {
        let site = try MatchSite.make(try await Stack.make(), rows: 5_000)
        let agent = try site.agent()
        defer { agent.stop(15) }
        try await site.site.sealed()
        try site.session.execute(
            """
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction) VALUES (201, 1, 'Like'), (201, 2, 'Like'), (201, 3, 'Like')
            """)
        for _ in 1...3 { try site.session.execute("CALL reactions.advance('Image', true)") }
        #expect(try site.session.value("SELECT phase FROM reactions.status()") == "stop_writes")
        try site.session.execute(
            "SELECT reactions.react(201, 4, 'Cry'), reactions.unreact(201, 1, 'Like'), reactions.react(201, 2, 'Heart')"
        )
        try await site.stack.drained(site.session)
        #expect(await site.match().hasEndedWell)
        #expect(try site.run()[1...3] == ["0", "0", "0"])
        // What the table has lost since: by an event that ClickHouse has, and without one.
        try site.unseen("DELETE FROM \"ImageReaction\" WHERE \"userId\" = 201 AND \"imageId\" IN (1, 3)")
        let found = await site.match("--repair")
        #expect(!found.hasEndedWell, "\(found.output)")
        #expect(
            try site.differences() == [["explained", "201", "1", "0", "1"], ["phantom", "201", "3", "0", "1"]])
        #expect(found.output.contains("the table of Image takes no more writes"), "\(found.output)")
    }
}

/// A value that two threads share.
private final class Flag: Sendable {
    private let lock = NSLock()
    nonisolated(unsafe) private var stored: Bool
    init(_ value: Bool) { stored = value }
    var value: Bool {
        get { lock.withLock { stored } }
        set { lock.withLock { stored = newValue } }
    }
}
