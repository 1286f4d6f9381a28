import Foundation
import Glibc
import TestSupport
import Testing

@Suite("Archive, while others work", .serialized) struct ArchiveRaceTests {
    /// An archive whose files are written, and which waits before its match for the transaction of `gate` to end.
    private func paused(
        _ site: ArchiveSite, then: String
    ) async throws -> (process: ServerProcess, gate: PostgresConnection) {
        let gate = try site.stack.connect()
        try gate.execute("BEGIN; LOCK TABLE reactions.match_run IN SHARE ROW EXCLUSIVE MODE")
        let process = try site.stack.start("archive", ["Image", "--to", site.directory, "--then", then])
        try await eventually("the match waits") {
            try site.session.value(
                """
                SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                WHERE NOT l.granted AND l.relation = 'reactions.match_run'::regclass AND d.datname = current_database()
                """) == "1"
        }
        #expect(site.files.contains("manifest.json"))
        return (process, gate)
    }

    private func end(_ process: ServerProcess) async throws -> String {
        try await eventually("the archive ends") { !process.isRunning }
        return process.log
    }

    @Test("what still needs the table is found again at the end")
    func viewMadeMeanwhile() async throws {
        let site = try await ArchiveSite.make(try await Stack.make(), rows: 500)
        defer { site.agent.stop(15) }
        let (process, gate) = try await paused(site, then: "drop")
        try site.session.execute("CREATE VIEW late AS SELECT count(*) FROM \"ImageReaction\"")
        try gate.execute("COMMIT")
        let output = try await end(process)
        #expect(output.contains("view public.late"), "\(output)")
        #expect(try site.phase() == "stop_writes")
        try site.session.execute("DROP VIEW late")
        let again = await site.archive("--then", "drop")
        #expect(again.hasEndedWell && again.output.contains("has a finished archive"), "\(again.output)")
    }

    @Test("whoever wants to disable the triggers of a table that is archived waits, and one archive waits for another")
    func held() async throws {
        let site = try await ArchiveSite.make(try await Stack.make(), rows: 500)
        defer { site.agent.stop(15) }
        let (process, gate) = try await paused(site, then: "rename")
        let other = try site.stack.connect()
        try other.execute("SET lock_timeout = '100ms'")
        let refused = #expect(throws: PostgresError.self) {
            try other.execute("ALTER TABLE \"ImageReaction\" DISABLE TRIGGER ALL")
        }
        #expect(refused?.sqlstate == "55P03")
        // What nobody is to wait for: reads, and functions.
        #expect(try other.value("SELECT count(*) > 0 FROM \"ImageReaction\"") == "t")
        try other.execute("SELECT reactions.react(1, 1, 'Heart')")
        let second = await site.attempt("archive", ["Image", "--to", site.stack.path("second")])
        #expect(!second.hasEndedWell && second.output.contains("locked by another archive"), "\(second.output)")
        try gate.execute("COMMIT")
        let output = try await end(process)
        #expect(output.contains("archived: "), "\(output)")
        #expect(try site.phase() == "archived")
    }

    @Test("rows that a foreign key takes while the table is archived are in the archive, and stay away")
    func deletedMeanwhile() async throws {
        let site = try await ArchiveSite.make(try await Stack.make(), rows: 2_000)
        defer { site.agent.stop(15) }
        let (process, gate) = try await paused(site, then: "drop")
        let gone = try site.session.value("SELECT count(*) FROM kept WHERE \"userId\" = 7") ?? ""
        try site.session.execute("DELETE FROM \"User\" WHERE id = 7")
        try await site.stack.drained(site.session)
        try gate.execute("COMMIT")
        let output = try await end(process)
        #expect(output.contains("\(gone) rows were removed by foreign keys"), "\(output)")
        #expect(
            try site.session.value(
                "SELECT readiness ->> 'rows_removed_since' FROM reactions.phase_log WHERE to_phase = 'archived'")
                == gone)
        let restored = await site.restore()
        #expect(restored.hasEndedWell && restored.output.contains("\(gone) rows are left out"), "\(restored.output)")
        try site.expectRestored(missing: "\"userId\" = 7")
    }

    @Test("rows of deleted and forgotten users, and of deleted images, are left out of a restore; the first are listed")
    func rowsLeftOut() async throws {
        let site = try await ArchiveSite.make(try await Stack.make(), rows: 2_000)
        defer { site.agent.stop(15) }
        #expect(await site.archive("--then", "drop", "--max-file-rows", "300").hasEndedWell)
        try site.session.execute("DELETE FROM \"User\" WHERE id IN (11, 12); DELETE FROM \"Image\" WHERE id = 44")
        try site.session.execute("CALL reactions.forget_user(13)")
        try await eventually("the user's reactions are gone") {
            try site.session.value("SELECT bool_and(state <> 'requested') FROM reactions.forgotten_user") == "t"
        }
        let restored = await site.restore()
        #expect(
            restored.hasEndedWell && restored.output.contains("rows of forgotten users are left out"),
            "\(restored.output)")
        let deleted = "\"userId\" IN (11, 12) OR \"imageId\" = 44"
        try site.expectRestored(missing: "\"userId\" = 13 OR \(deleted)")
        // Nothing of the forgotten user is in the files that list the others.
        let lists = site.files.filter { $0.hasPrefix("left-out") }
        let listed = try lists.map { try String(contentsOfFile: site.directory + "/" + $0, encoding: .utf8) }.joined()
        let expected = try site.session.query("SELECT id FROM kept WHERE (\(deleted)) AND \"userId\" <> 13 ORDER BY id")
        for row in expected {
            let id = try #require(row[0])
            #expect(listed.contains("\"\(id)\",\""), "row \(id)")
        }
        let forgotten = try site.session.query("SELECT id FROM kept WHERE \"userId\" = 13")
        #expect(!forgotten.isEmpty)
        for row in forgotten { #expect(!listed.contains("\n\"\(row[0] ?? "")\",\"")) }
        // What is gone for ClickHouse is gone for the table.
        let match = await site.attempt("match", [])
        #expect(match.hasEndedWell, "\(match.output)")
    }

    @Test("after a restore the table gets what has happened since, and agrees with ClickHouse")
    func rolledBack() async throws {
        let site = try await ArchiveSite.make(try await Stack.make())
        defer { site.agent.stop(15) }
        try site.session.execute(
            """
            SELECT reactions.react(u, e, 'Heart') FROM generate_series(1, 20) u, generate_series(1, 10) e;
            SELECT reactions.unreact("userId", "imageId", reaction::text) FROM "ImageReaction"
            WHERE reaction = 'Like' AND "userId" % 5 = 0
            """)
        #expect(await site.archive("--then", "drop").hasEndedWell)
        try site.session.execute(
            """
            SELECT reactions.react(u, e, 'Cry') FROM generate_series(100, 120) u, generate_series(1, 10) e;
            SELECT reactions.unreact(u, e, 'Heart') FROM generate_series(1, 20) u, generate_series(1, 5) e
            """)
        let restored = await site.restore("--rollback")
        #expect(
            restored.hasEndedWell && restored.output.contains("rolled back: the table is the truth again"),
            "\(restored.output)")
        #expect(try site.phase() == "switch_reads")
        let match = await site.attempt("match", [])
        #expect(match.hasEndedWell, "\(match.output)")
        let inTable = try site.session.query(
            """
            SELECT "userId", "imageId", 'Reaction' || reaction FROM "ImageReaction" WHERE reaction <> 'Dislike' ORDER BY 1, 2, 3
            """
        ).map { $0.map { $0 ?? "" } }
        let inClickHouse = try site.stack.clickHouseRows(
            """
            SELECT userId, entityId, metricType FROM {db}.entityMetricEvents WHERE entityType = 'Image'
            GROUP BY userId, entityId, metricType HAVING argMax(metricValue, version) > 0 ORDER BY userId, entityId, metricType
            """)
        #expect(Set(inTable) == Set(inClickHouse))
        #expect(inTable.count == inClickHouse.count)
        // Rows that are no reactions came back from the files alone.
        #expect(
            try site.session.value("SELECT count(*) FROM \"ImageReaction\" WHERE reaction = 'Dislike'")
                == site.session.value("SELECT count(*) FROM kept WHERE reaction = 'Dislike'"))
        // New rows get ids that nobody has had.
        try site.session.execute(
            "INSERT INTO \"ImageReaction\" (\"userId\", \"imageId\", reaction) VALUES (250, 2, 'Heart')")
        #expect(
            try site.session.value(
                "SELECT max(id) > 4000 AND count(*) FILTER (WHERE \"userId\" = 250) = 1 FROM \"ImageReaction\"") == "t")
    }

    @Test("a type that is rolled back, and frozen anew, while its table is archived keeps the table")
    func rolledBackMeanwhile() async throws {
        let site = try await ArchiveSite.make(try await Stack.make(), rows: 500)
        defer { site.agent.stop(15) }
        let (process, gate) = try await paused(site, then: "drop")
        let rollback = try site.stack.start("rollback", ["Image"], log: "rollback.log")
        try await eventually("it is rolled back") { try site.phase() == "switch_reads" }
        try site.session.execute("CALL reactions.advance('Image', force => true)")
        try gate.execute("COMMIT")
        let output = try await end(process)
        #expect(output.contains("has been written since it was archived"), "\(output)")
        #expect(try site.phase() == "stop_writes")
        #expect(try site.tableExists())
        // It has waited for the archive's lock to drop its triggers, which the type needs again.
        try await eventually("the rollback ends") { !rollback.isRunning }
        #expect(
            try site.session.value("SELECT bool_and(ok) FROM reactions.doctor() WHERE \"check\" = 'gone_Image'") == "t")
        let again = await site.archive("--then", "drop")
        #expect(!again.hasEndedWell && again.output.contains("name another directory"), "\(again.output)")
    }

    @Test("a restore insists on its last step while writers leave no gap, and tells what its rollback was refused")
    func busyFence() async throws {
        let site = try await ArchiveSite.make(try await Stack.make(), rows: 500)
        defer { site.agent.stop(15) }
        #expect(await site.archive("--then", "drop").hasEndedWell)
        // A user whom the table does not know.
        try site.session.execute("SELECT reactions.react(9001, 1, 'Heart')")
        let writer = try site.stack.connect()
        try writer.execute("BEGIN; SELECT reactions.react(1, 1, 'Cry')")
        let process = try site.stack.start("restore", ["Image", "--from", site.directory, "--rollback"])
        try await eventually("it tries again") { process.log.contains("trying again") }
        #expect(try site.phase() == "archived")
        try writer.execute("COMMIT")
        let output = try await end(process)
        #expect(output.contains("rolled back: the table is the truth again"), "\(output)")
        #expect(output.contains("WARNING:  the table of entity type \"Image\" refused 1 reactions"), "\(output)")
        #expect(output.contains("events written back; writers waited for"), "\(output)")
        #expect(try site.phase() == "switch_reads")
        #expect(
            try site.session.value(
                "SELECT count(*) FROM \"ImageReaction\" WHERE \"userId\" = 1 AND \"imageId\" = 1 AND reaction = 'Cry'")
                == "1")
    }
}
