import Foundation
import TestSupport

/// Servers, Prisma's tables with rows from before, and what the DBA does.
final class MigrationSite {
    static let sessions = 4
    private static let firstImage = 1

    let stack: Stack
    let postgres: PostgresServer
    let clickHouse: ClickHouseServer
    let session: PostgresConnection
    let rows: Int
    let users: Int
    let images: Int
    private var agent: ServerProcess?

    init(rows: Int) async throws {
        self.rows = rows
        users = max(rows / 100, Self.sessions * 10)
        // A prime: each row below is another (user, image).
        images = 100_003
        postgres = try await PostgresServer.start(
            sharedPreloadLibraries: ["pg_reactions"],
            configuration: ["fsync": "on", "full_page_writes": "on", "shared_buffers": "512MB", "max_wal_size": "4GB"])
        clickHouse = try await ClickHouseServer.start()
        stack = try await Stack.make(postgres: postgres, clickHouse: clickHouse)
        session = try stack.connect()
        try makeTables()
    }

    deinit { agent?.stop() }

    private func makeTables() throws {
        try session.execute(
            """
            CREATE TABLE "User" (id integer PRIMARY KEY);
            CREATE TABLE "Image" (id integer PRIMARY KEY);
            CREATE TYPE "ReviewReactions" AS ENUM ('Like', 'Dislike', 'Laugh', 'Cry', 'Heart');
            CREATE TABLE "ImageReaction" (
                "id" SERIAL NOT NULL,
                "imageId" INTEGER NOT NULL,
                "userId" INTEGER NOT NULL,
                "reaction" "ReviewReactions" NOT NULL,
                "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
                CONSTRAINT "ImageReaction_pkey" PRIMARY KEY ("id"));
            INSERT INTO "User" SELECT generate_series(1, \(users));
            INSERT INTO "Image" SELECT generate_series(1, \(images));
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction, "createdAt")
            SELECT 1 + g % \(users), 1 + g * 7919::bigint % \(images), \
            (ARRAY['Like', 'Heart', 'Laugh', 'Cry'])[g % 4 + 1]::"ReviewReactions", '2020-01-01'::timestamp + g * interval '1 second'
            FROM generate_series(1, \(rows)) g;
            CREATE UNIQUE INDEX "ImageReaction_imageId_userId_reaction_key" ON "ImageReaction" ("imageId", "userId", "reaction");
            CREATE INDEX "ImageReaction_userId_idx" ON "ImageReaction" ("userId");
            ALTER TABLE "ImageReaction"
                ADD CONSTRAINT "ImageReaction_userId_fkey" FOREIGN KEY ("userId") REFERENCES "User" (id) ON DELETE CASCADE ON UPDATE CASCADE,
                ADD CONSTRAINT "ImageReaction_imageId_fkey" FOREIGN KEY ("imageId") REFERENCES "Image" (id) ON DELETE CASCADE ON UPDATE CASCADE;
            """)
        try session.execute("VACUUM ANALYZE")
    }

    /// The application, each of its sessions with users of its own and all that these have reacted to.
    func makeApplication() throws -> Application {
        var parts = [[Int: [Int: Int]]](repeating: [:], count: Self.sessions)
        for row in 1...rows {
            let user = 1 + row % users
            parts[user % Self.sessions][user, default: [:]][1 + row * 7919 % images, default: 0] |= 1 << (row % 4)
        }
        return Application(
            try parts.enumerated().map { index, reactions in
                let session = try stack.connect()
                // Enough compared reads within the demonstration.
                try session.execute("SET reactions.compare_share = 1")
                return ApplicationClient(session: session, seed: UInt64(index), images: images, reactions: reactions)
            })
    }

    // MARK: What the DBA does

    func attach() throws {
        try session.execute(
            """
            SELECT reactions.attach('"ImageReaction"', 'Image', user_column => 'userId', entity_column => 'imageId',
                kind_column => 'reaction', created_column => 'createdAt', unknown_kinds => 'skip')
            """)
    }

    func startAgent() throws { agent = try stack.startAgent(Stack.withoutMatches) }

    func killAgent() {
        agent?.stop(SIGKILL)
        agent = nil
    }

    var phase: String {
        get throws { try session.value("SELECT phase FROM reactions.status() WHERE entity_type = 'Image'") ?? "" }
    }

    func awaitBackfill() async throws {
        try await eventually(within: .seconds(900), "the table is brought over") {
            try session.value("SELECT backfilled FROM reactions.status()") == "t"
        }
    }

    /// Takes the type to its next phase as soon as it is ready; the microseconds of the flip.
    func advance() async throws -> (began: Double, ended: Double) {
        try await eventually(within: .seconds(600), "the type is ready") {
            try session.value("SELECT bool_and(ok) FROM reactions.readiness('Image')") == "t"
        }
        let began = microseconds()
        try session.execute("CALL reactions.advance('Image')")
        return (began, microseconds())
    }

    func rollback() throws -> (began: Double, ended: Double) {
        let began = microseconds()
        try session.execute("CALL reactions.rollback('Image')")
        return (began, microseconds())
    }

    /// What stops to work in stop_writes, and is meant to: the foreign keys are replaced by triggers.
    func acknowledge() throws {
        let left = try session.query("SELECT condition FROM reactions.readiness('Image') WHERE NOT ok").compactMap {
            $0[0]
        }
        if !left.isEmpty {
            try session.query(
                "SELECT reactions.configure('Image', acknowledged => $1)", ["{" + left.joined(separator: ",") + "}"])
        }
    }

    /// What the application's own SQL gets in stop_writes.
    func refusal() throws -> String {
        do {
            try session.execute(#"DELETE FROM "ImageReaction" WHERE id = 1"#)
        } catch let error as PostgresError {
            return "\(error.sqlstate) \(error.message)"
        }
        throw BenchmarkError("the table was written in stop_writes")
    }

    func archive() async throws -> String {
        let path = stack.path("archive")
        let output = try await stack.reactiond("archive", "Image", "--to", path, "--then", "drop")
        let bytes = try FileManager.default.contentsOfDirectory(atPath: path).reduce(0) {
            $0 + (try FileManager.default.attributesOfItem(atPath: path + "/" + $1)[.size] as? Int ?? 0)
        }
        return output + "\(number(Double(bytes) / Double(rows), 1)) bytes per row in files"
    }

    func remains() throws -> String {
        try session.value("SELECT coalesce(to_regclass('\"ImageReaction\"')::text, 'the table is gone')") ?? ""
    }
}
