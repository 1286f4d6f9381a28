import Foundation
import Glibc
import TestSupport
import Testing

@Suite("Archive, with trouble", .serialized) struct ArchiveTroubleTests {
    @Test("a full disk leaves everything as it was, and no files")
    func fullDisk() async throws {
        let site = try await ArchiveSite.make(try await Stack.make(), rows: 20_000)
        defer { site.agent.stop(15) }
        // A limit on the size of a file is met like the end of the disk, in the middle of a write.
        let full = await site.archive("--then", "drop", under: ["/usr/bin/prlimit", "--fsize=50000"])
        #expect(!full.hasEndedWell && full.output.contains("larger than files may be"), "\(full.output)")
        #expect(site.files.isEmpty)
        #expect(try site.phase() == "stop_writes")
        #expect(try site.tableExists())
        #expect(await site.archive("--then", "drop").hasEndedWell)
    }

    @Test("an archive that is killed while it writes is started over")
    func killedWhileWriting() async throws {
        let site = try await ArchiveSite.make(try await Stack.make(), rows: 20_000)
        defer { site.agent.stop(15) }
        let process = try site.stack.start(
            "archive", ["Image", "--to", site.directory, "--then", "drop", "--max-file-rows", "10"])
        try await eventually { site.files.contains("rows-000003.csv.gz") }
        process.stop(SIGKILL)
        #expect(!site.files.contains("manifest.json"))
        #expect(try site.phase() == "stop_writes")
        // The server notices that nobody is there any more, and the lock is free.
        let again = await site.archive("--then", "drop")
        #expect(again.hasEndedWell && again.output.contains("starting over"), "\(again.output)")
        #expect(site.files == ["manifest.json", "rows-000001.csv.gz"])
        #expect(await site.restore().hasEndedWell)
        try site.expectRestored()
    }

    @Test("a crash of PostgreSQL before the last step leaves an archive that is used by the next attempt")
    func crashBeforeLastStep() async throws {
        let postgres = try await PostgresServer.start(sharedPreloadLibraries: ["pg_reactions"])
        let site = try await ArchiveSite.make(try await Stack.make(postgres: postgres))
        defer { site.agent.stop(15) }
        // Who reads the table keeps the last step waiting.
        let reader = try site.stack.connect()
        try reader.execute("BEGIN; SELECT FROM \"ImageReaction\" LIMIT 1")
        let process = try site.stack.start("archive", ["Image", "--to", site.directory, "--then", "drop"])
        let watcher = try site.stack.connect()
        try await eventually("the last step waits") {
            try watcher.value(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%_archive_table(%' AND state = 'active' AND pid <> pg_backend_pid()"
            )
                == "1"
        }
        postgres.stop(SIGQUIT)
        try await eventually { !process.isRunning }
        #expect(site.files.contains("manifest.json"))
        try await postgres.start()

        let survivor = ArchiveSite(stack: site.stack, session: try site.stack.connect(), agent: site.agent)
        #expect(try survivor.phase() == "stop_writes")
        #expect(try survivor.tableExists())
        try await eventually("the agent is back") {
            try survivor.session.value("SELECT agent_pid IS NOT NULL FROM reactions.mirror_status") == "t"
        }
        let again = await survivor.archive("--then", "drop")
        #expect(again.hasEndedWell && again.output.contains("has a finished archive: checking it"), "\(again.output)")
        #expect(try survivor.phase() == "archived")
        #expect(await survivor.restore().hasEndedWell)
        try survivor.expectRestored()
    }

    @Test("an archive is not used again for a table that has changed since, nor is it overwritten")
    func outdated() async throws {
        let site = try await ArchiveSite.make(try await Stack.make(), rows: 500)
        defer { site.agent.stop(15) }
        #expect(await site.archive("--then", "keep").hasEndedWell)
        #expect(await site.restore().hasEndedWell)
        try site.session.execute(
            """
            ALTER TABLE "ImageReaction" DISABLE TRIGGER USER; UPDATE "ImageReaction" SET "no,te" = 'other' WHERE id = 3;
            """)
        let disabled = await site.archive()
        #expect(!disabled.hasEndedWell && disabled.output.contains("capture trigger"), "\(disabled.output)")
        try site.session.execute(
            """
            DO $$ DECLARE n name; BEGIN
                FOR n IN SELECT tgname FROM pg_trigger WHERE tgrelid = '"ImageReaction"'::regclass AND NOT tgisinternal LOOP
                    EXECUTE format('ALTER TABLE "ImageReaction" ENABLE ALWAYS TRIGGER %I', n);
                END LOOP; END $$
            """)
        let refused = await site.archive()
        #expect(!refused.hasEndedWell && refused.output.contains("name another directory"), "\(refused.output)")
        #expect(await site.archive("--verify-only").hasEndedWell, "the archive is as it was")
        // A difference between table and ClickHouse keeps the table where it is.
        try site.session.execute(
            """
            SET session_replication_role = replica; ALTER TABLE "ImageReaction" DISABLE TRIGGER ALL;
            DELETE FROM "ImageReaction" WHERE id = 3; ALTER TABLE "ImageReaction" ENABLE TRIGGER ALL;
            DO $$ DECLARE n name; BEGIN
                FOR n IN SELECT tgname FROM pg_trigger WHERE tgrelid = '"ImageReaction"'::regclass AND NOT tgisinternal LOOP
                    EXECUTE format('ALTER TABLE "ImageReaction" ENABLE ALWAYS TRIGGER %I', n);
                END LOOP; END $$
            """)
        let elsewhere = await site.attempt("archive", ["Image", "--to", site.stack.path("other")])
        #expect(!elsewhere.hasEndedWell && elsewhere.output.contains("1 reactions differ"), "\(elsewhere.output)")
        // What the table says is no longer the newest.
        let repair = await site.attempt("match", ["--repair"])
        #expect(
            repair.output.contains("status 256") && repair.output.contains("takes no more writes")
                && repair.output.contains("nothing was repaired"), "\(repair.output)")
        let dry = await site.attempt("match", ["--dry-run"])
        #expect(dry.output.contains("1 differ") && !dry.output.contains("--repair would write"), "\(dry.output)")
        #expect(try site.phase() == "stop_writes")
    }

    @Test("a key that was renamed, or a function that was dropped, since the archive ends a restore before it loads")
    func renamedSince() async throws {
        let site = try await ArchiveSite.make(try await Stack.make(), rows: 500)
        defer { site.agent.stop(15) }
        try site.session.execute(
            """
            CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
            CREATE TRIGGER own AFTER INSERT ON "ImageReaction" FOR EACH ROW EXECUTE FUNCTION own()
            """)
        #expect(await site.archive("--then", "drop").hasEndedWell)
        func refused(_ change: String, _ words: String..., back: String) async throws {
            try site.session.execute(change)
            let attempt = await site.restore()
            #expect(!attempt.hasEndedWell && !attempt.output.contains("loading"), "\(attempt.output)")
            for word in words + ["status 256", "hint: Something that it needs was renamed or dropped"] {
                #expect(attempt.output.contains(word), "\(word) in \(attempt.output)")
            }
            #expect(try !site.tableExists())
            try site.session.execute(back)
        }
        try await refused(
            "ALTER TABLE \"User\" RENAME id TO \"user id\"", "ImageReaction_userId_fkey", "\"id\"",
            back: "ALTER TABLE \"User\" RENAME \"user id\" TO id")
        try await refused(
            "ALTER TABLE \"Image\" RENAME TO \"Picture\"", "ImageReaction_imageId_fkey",
            back: "ALTER TABLE \"Picture\" RENAME TO \"Image\"")
        try await refused(
            "ALTER FUNCTION own RENAME TO other", "triggers",
            back: "ALTER FUNCTION other RENAME TO own")
        #expect(try site.phase() == "archived")
        let restored = await site.restore()
        #expect(restored.hasEndedWell, "\(restored.output)")
        // Afterwards everything may be renamed.
        try site.session.execute(
            "ALTER TABLE \"User\" RENAME id TO \"user id\"; DELETE FROM \"User\" WHERE \"user id\" = 9")
        #expect(try site.session.value("SELECT count(*) FROM \"ImageReaction\" WHERE \"userId\" = 9") == "0")
        #expect(
            try site.session.value("SELECT count(*) FROM reactions._outbox WHERE scope = 'u' AND user_id = 9") == "1")
    }

    @Test(
        "a restore that is killed leaves a table that the next one drops; a table of that name that is not its own stays"
    )
    func killedWhileRestoring() async throws {
        let site = try await ArchiveSite.make(try await Stack.make(), rows: 20_000)
        defer { site.agent.stop(15) }
        #expect(await site.archive("--then", "drop", "--max-file-rows", "100").hasEndedWell)
        try site.session.execute("CREATE TABLE \"ImageReaction\" (mine integer)")
        let taken = await site.restore()
        #expect(
            !taken.hasEndedWell && taken.output.contains("already exists") && taken.output.contains("status 256")
                && taken.output.contains("hint: Rename it"), "\(taken.output)")
        let unknown = await site.attempt("restore", ["None", "--from", site.directory])
        #expect(unknown.output.contains("status 256") && unknown.output.contains("does not exist"), "\(unknown.output)")
        #expect(try site.session.value("SELECT count(*) FROM \"ImageReaction\"") == "0")
        try site.session.execute("DROP TABLE \"ImageReaction\"")

        // Who writes keeps the last steps waiting.
        let writer = try site.stack.connect()
        try writer.execute("BEGIN; SELECT reactions.react(1, 1, 'Heart')")
        let process = try site.stack.start("restore", ["Image", "--from", site.directory])
        try await eventually("the table is there") { try site.tableExists() }
        process.stop(SIGKILL)
        try writer.execute("ROLLBACK")
        #expect(try site.phase() == "archived")
        #expect(
            try site.session.value("SELECT obj_description('\"ImageReaction\"'::regclass)")?.hasPrefix("being restored")
                == true)
        let again = await site.restore()
        #expect(again.hasEndedWell, "\(again.output)")
        try site.expectRestored()
    }
}
