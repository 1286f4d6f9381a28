import Foundation
import TestSupport
import Testing

/// A table of users 1 … 200 and images in phase stop_writes, with columns of all sorts beside Prisma's, and foreign keys.
struct ArchiveSite {
    let stack: Stack
    let session: PostgresConnection
    let agent: ServerProcess
    /// Where the archive goes.
    var directory: String { stack.path("archive") }

    static func make(_ stack: Stack, rows: Int = 4_000, agent arguments: [String] = []) async throws -> ArchiveSite {
        let session = try stack.connect()
        try session.execute(
            """
            CREATE TABLE "User" (id integer PRIMARY KEY);
            CREATE TABLE "Image" (id integer PRIMARY KEY);
            INSERT INTO "User" SELECT generate_series(1, 250);
            INSERT INTO "Image" SELECT generate_series(0, \(rows));
            CREATE TYPE "ReviewReactions" AS ENUM ('Like', 'Dislike', 'Laugh', 'Cry', 'Heart', 'two words');
            CREATE TABLE "ImageReaction" (
                id serial PRIMARY KEY,
                "imageId" integer NOT NULL REFERENCES "Image" ON DELETE CASCADE,
                "userId" integer NOT NULL REFERENCES "User" ON DELETE CASCADE,
                reaction "ReviewReactions" NOT NULL, "createdAt" timestamp(3) NOT NULL DEFAULT current_timestamp,
                "updated At" timestamptz DEFAULT now(), "no,te" text, amount numeric(20, 4), doc jsonb, tags text[],
                former "ReviewReactions", flag boolean, raw bytea, code character(4),
                serial bigint GENERATED ALWAYS AS IDENTITY (START 500),
                length integer GENERATED ALWAYS AS (length("no,te")) STORED,
                CONSTRAINT positive CHECK ("userId" > 0));
            CREATE UNIQUE INDEX "ImageReaction_key" ON "ImageReaction" ("imageId", "userId", reaction);
            CREATE INDEX "ImageReaction_userId_idx" ON "ImageReaction" ("userId");
            COMMENT ON TABLE "ImageReaction" IS 'who reacted to what';
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction, "createdAt", "updated At", "no,te", amount, doc, tags, former, flag, raw, code)
            SELECT g % 200 + 1, g / 5, (enum_range(NULL::"ReviewReactions"))[g % 10 % 5 + 1], '2020-01-01'::timestamp + g * interval '1 s',
                CASE g % 4 WHEN 0 THEN 'infinity' WHEN 1 THEN '2020-02-29 12:00:00.123456+05:30'::timestamptz END,
                (ARRAY['', NULL, 'a "quoted" word', E'two\\nlines\\r\\n', E'back\\\\slash \\\\N \\\\.', 'Größe 漢字 😀', ',', '"'])[g % 8 + 1],
                CASE WHEN g % 3 > 0 THEN g * 1.2345 END,
                CASE g % 3 WHEN 0 THEN '{"a": "x,\\"y\\"", "b": [1, null]}' WHEN 1 THEN 'null' END::jsonb,
                CASE g % 3 WHEN 0 THEN '{a,"b c",NULL,"","\\"","\\\\\\\\"}' WHEN 1 THEN '{}' END::text[],
                CASE WHEN g % 2 = 0 THEN 'two words' END::"ReviewReactions", g % 3 = 0, decode(lpad(to_hex(g), 8, '0'), 'hex'), 'ä'
            FROM generate_series(1, \(rows)) g;
            DELETE FROM "ImageReaction" WHERE id % 7 = 0;
            SELECT reactions.attach('"ImageReaction"', 'Image', 'userId', 'imageId', 'reaction', 'createdAt', unknown_kinds => 'skip')
            """)
        // The matches that count are the archive's own.
        let agent = try stack.startAgent(Stack.withoutMatches + arguments)
        let site = ArchiveSite(stack: stack, session: session, agent: agent)
        try await site.frozen()
        return site
    }

    private func frozen() async throws {
        try await eventually("the table is brought over") {
            try session.value("SELECT backfilled FROM reactions.status()") == "t"
        }
        for _ in 1...3 { try session.execute("CALL reactions.advance('Image', true)") }
        try session.execute("CREATE TABLE kept AS TABLE \"ImageReaction\"")
        try session.execute(
            "CREATE TABLE described AS SELECT reactions._table_description('\"ImageReaction\"') AS description")
    }

    func phase() throws -> String? { try session.value("SELECT phase FROM reactions.status()") }

    func tableExists(_ name: String = "\"ImageReaction\"") throws -> Bool {
        try session.value("SELECT to_regclass($1)", [name]) != nil
    }

    /// The table is, to the last byte, what it was before it was archived.
    func expectRestored(missing: String = "false") throws {
        let differing = try session.value(
            """
            SELECT count(*) FROM (
                (SELECT r::text FROM "ImageReaction" r EXCEPT ALL SELECT k::text FROM kept k WHERE NOT (\(missing)))
                UNION ALL
                (SELECT k::text FROM kept k WHERE NOT (\(missing)) EXCEPT ALL SELECT r::text FROM "ImageReaction" r)) d
            """)
        #expect(differing == "0")
        #expect(
            try session.value(
                "SELECT description = reactions._table_description('\"ImageReaction\"') FROM described") == "t")
        #expect(try phase() == "stop_writes")
    }

    /// Runs a command; whether it ended well, and what it printed.
    func attempt(
        _ command: String, _ arguments: [String], under wrapper: [String] = []
    ) async -> (hasEndedWell: Bool, output: String) {
        do {
            return (true, try await stack.reactiond(command, arguments, under: wrapper))
        } catch {
            return (false, "\(error)")
        }
    }

    @discardableResult
    func archive(_ arguments: String..., under wrapper: [String] = []) async -> (hasEndedWell: Bool, output: String) {
        await attempt("archive", ["Image", "--to", directory] + arguments, under: wrapper)
    }

    func restore(_ arguments: String...) async -> (hasEndedWell: Bool, output: String) {
        await attempt("restore", ["Image", "--from", directory] + arguments)
    }

    var files: [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []).sorted()
    }
}
