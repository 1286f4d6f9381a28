import Foundation
import TestSupport
import Testing

@Suite("Archive", .serialized) struct ArchiveTests {
    @Test("a dropped table comes back to the last byte, while reactions go on")
    func roundTrip() async throws {
        let site = try await ArchiveSite.make(try await Stack.make())
        defer { site.agent.stop(15) }
        try site.session.execute("SELECT reactions.react(1, 1, 'Heart'), reactions.unreact(3, 0, 'Laugh')")
        try await site.stack.drained(site.session)

        let archived = await site.archive("--then", "drop", "--max-file-rows", "1000")
        #expect(archived.hasEndedWell && archived.output.contains("is dropped"), "\(archived.output)")
        let files = ["manifest.json"] + (1...4).map { "rows-00000\($0).csv.gz" }
        #expect(site.files == files)
        #expect(try !site.tableExists())
        #expect(
            try site.session.query("SELECT phase, legacy_table FROM reactions.status()") == [["archived", nil]])
        // Any reader of gzip and CSV can have it.
        let header = try await run(["/bin/sh", "-c", "zcat \(site.directory)/rows-000004.csv.gz | head -1"])
        #expect(header.hasPrefix("\"id\",\"imageId\",\"userId\",\"reaction\",\"createdAt\",\"updated At\",\"no,te\","))
        let verified = await site.archive("--verify-only")
        #expect(verified.hasEndedWell && verified.output.contains("3,429 rows"), "\(verified.output)")
        let again = await site.archive()
        #expect(again.hasEndedWell && again.output.contains("archived already"), "\(again.output)")
        let report = try site.session.query(
            """
            SELECT readiness ->> 'rows', readiness ->> 'then', readiness ->> 'directory', changed_by
            FROM reactions.phase_log WHERE to_phase = 'archived'
            """)
        #expect(report == [["3429", "drop", site.directory, "postgres"]])

        try site.session.execute("SELECT reactions.react(2, 7, 'Cry')")
        #expect(try site.session.value("SELECT reactions.flags(2, 7)") == "8")
        let restored = await site.restore()
        #expect(restored.hasEndedWell && restored.output.contains("3429 rows"), "\(restored.output)")
        try site.expectRestored()
        // Frozen again, and with its sequences where they were.
        #expect(throws: PostgresError.self) { try site.session.execute("DELETE FROM \"ImageReaction\"") }
        #expect(try site.session.value("SELECT last_value FROM \"ImageReaction_id_seq\"") == "4000")
        let match = await site.attempt("match", [])
        #expect(match.hasEndedWell, "\(match.output)")
        #expect(!(await site.restore()).hasEndedWell, "it is there already")
    }

    @Test(
        "a table that is renamed or kept takes no writes, and is used again by a restore",
        arguments: ["rename", "keep"])
    func renamedOrKept(_ then: String) async throws {
        let site = try await ArchiveSite.make(try await Stack.make(), rows: 500)
        defer { site.agent.stop(15) }
        let archived = await site.archive("--then", then)
        #expect(archived.hasEndedWell, "\(archived.output)")
        let name = try #require(try site.session.value("SELECT legacy_table::text FROM reactions.status()"))
        #expect(name.contains("_archived_20") == (then == "rename"))
        #expect(try site.tableExists() == (then == "keep"))
        #expect(throws: PostgresError.self) { try site.session.execute("DELETE FROM \(name)") }
        #expect(
            try site.session.value("SELECT bool_and(ok) FROM reactions.doctor() WHERE \"check\" LIKE 'capture%'") == "t"
        )
        #expect(throws: PostgresError.self) { try site.session.execute("CALL reactions.rollback('Image')") }
        let restored = await site.restore()
        #expect(restored.hasEndedWell && restored.output.contains("was still there"), "\(restored.output)")
        try site.expectRestored()
    }

    @Test("a renamed table that somebody drops later is nobody's trouble, and comes back from the files")
    func droppedByHand() async throws {
        let site = try await ArchiveSite.make(
            try await Stack.make(), rows: 500, agent: ["--set", "match.watch_interval=100ms"])
        defer { site.agent.stop(15) }
        #expect(await site.archive("--then", "rename").hasEndedWell)
        let name = try #require(try site.session.value("SELECT legacy_table::text FROM reactions.status()"))
        try site.session.execute("DROP TABLE \(name)")
        try await eventually("the type has no table") {
            try site.session.value("SELECT legacy_table FROM reactions.status()") == nil
        }
        #expect(try site.session.value("SELECT match_wanted FROM reactions.mirror_status") == nil)
        #expect(
            try site.session.query(
                "SELECT \"check\" FROM reactions.doctor() WHERE NOT ok AND \"check\" LIKE '%Image'") == [])
        try site.session.execute("DELETE FROM \"User\" WHERE id = 9")
        #expect(
            try site.session.value("SELECT count(*) FROM reactions._outbox WHERE scope = 'u' AND user_id = 9") == "1")
        let restored = await site.restore()
        #expect(restored.hasEndedWell && restored.output.contains("rows are left out"), "\(restored.output)")
        try site.expectRestored(missing: "\"userId\" = 9")
    }

    @Test("files and manifests that are not what was written are found out")
    func damage() async throws {
        let site = try await ArchiveSite.make(try await Stack.make(), rows: 2_000)
        defer { site.agent.stop(15) }
        #expect(await site.archive("--then", "drop", "--max-file-rows", "500").hasEndedWell)
        let file = site.directory + "/rows-000002.csv.gz"
        let whole = try #require(FileManager.default.contents(atPath: file))
        let manifestFile = site.directory + "/manifest.json"
        let manifest = try String(contentsOfFile: manifestFile, encoding: .utf8)

        func refused(_ words: String, line: Int = #line) async throws {
            for (command, option, more) in [("archive", "--to", ["--verify-only"]), ("restore", "--from", [])] {
                let attempt = await site.attempt(command, ["Image", option, site.directory] + more)
                #expect(!attempt.hasEndedWell && attempt.output.contains(words), "line \(line): \(attempt.output)")
            }
            #expect(try site.phase() == "archived")
            #expect(try !site.tableExists(), "nothing was begun")
        }
        var flipped = whole
        flipped[whole.count / 2] ^= 0x10
        try flipped.write(to: URL(filePath: file))
        try await refused("rows-000002.csv.gz is not what was written")
        try whole.prefix(whole.count - 9).write(to: URL(filePath: file))
        try await refused("rows-000002.csv.gz is not what was written")
        try FileManager.default.removeItem(atPath: file)
        try await refused("rows-000002.csv.gz is missing")
        try whole.write(to: URL(filePath: file))

        try manifest.replacing("\"owner\" : \"postgres\"", with: "\"owner\" : \"somebody\"").write(
            toFile: manifestFile, atomically: false, encoding: .utf8)
        try await refused("manifest.json has been changed")
        try FileManager.default.removeItem(atPath: manifestFile)
        try await refused("manifest.json is missing")
        try manifest.write(toFile: manifestFile, atomically: false, encoding: .utf8)
        #expect(await site.restore().hasEndedWell)
        try site.expectRestored()
    }

    @Test("what still needs the table is named, and nothing is done")
    func obstacles() async throws {
        let site = try await ArchiveSite.make(try await Stack.make(), rows: 500)
        defer { site.agent.stop(15) }
        try site.session.execute(
            """
            CREATE VIEW likes AS SELECT * FROM "ImageReaction" WHERE reaction = 'Like';
            CREATE TABLE pointing (reaction integer REFERENCES "ImageReaction");
            CREATE PUBLICATION reactions_publication FOR TABLE "ImageReaction";
            CREATE PUBLICATION everything FOR ALL TABLES;
            CREATE FUNCTION top() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM "ImageReaction"); END'
            """)
        for then in ["drop", "rename"] {
            let attempt = await site.archive("--then", then)
            #expect(!attempt.hasEndedWell)
            for word in [
                "view public.likes", "pointing_reaction_fkey", "reactions_publication", "function public.top()",
                "everything",
            ] {
                #expect(attempt.output.contains(word), "\(word) in \(attempt.output)")
            }
            #expect(try site.phase() == "stop_writes")
            #expect(site.files.isEmpty)
        }
        #expect(await site.archive("--then", "keep").hasEndedWell)
        #expect(try site.session.value("SELECT count(*) > 0 FROM likes") == "t")
    }
}
