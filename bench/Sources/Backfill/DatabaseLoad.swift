import SeededRandom
import TestSupport

/// What a load of 95 reads to 5 writes costs PostgreSQL: on the table, and in phase `stop_writes`.
///
/// Everything that happens in the database counts, the agent's sessions included, until the mirror is level.
struct DatabaseLoad {
    struct Cost {
        var buffers: Double
        var walBytes: Double
        var cpuSeconds: Double
    }

    struct Outcome {
        let statements: Int
        let onTable: Cost
        let inStopWrites: Cost

        func ratio(_ value: KeyPath<Cost, Double>) -> Double { inStopWrites[keyPath: value] / onTable[keyPath: value] }
    }

    private static let clients = 4
    private static let pageSize: Int64 = 100

    let site: BackfillSite
    /// Per client.
    let statements: Int

    func run() async throws -> Outcome {
        try prepare()
        let onTable = try await onTable()
        while try site.session.value("SELECT phase FROM reactions.status()") != "stop_writes" {
            try site.session.execute("CALL reactions.advance('Image', force => true)")
        }
        return Outcome(
            statements: statements * Self.clients, onTable: onTable, inStopWrites: try await inStopWrites())
    }

    /// A table of the same rows and indexes that nobody has attached.
    private func prepare() throws {
        try site.session.execute(
            """
            CREATE TABLE "PlainReaction" (LIKE "ImageReaction" INCLUDING ALL);
            INSERT INTO "PlainReaction" SELECT * FROM "ImageReaction";
            """)
        try site.session.execute("VACUUM ANALYZE")
    }

    private func onTable() async throws -> Cost {
        try await measure(agent: nil) { [self] client in
            try work(
                client,
                read:
                    #"SELECT "imageId", reaction FROM "PlainReaction" WHERE "userId" = $1::bigint AND "imageId" = ANY ($2::bigint[])"#,
                create:
                    #"INSERT INTO "PlainReaction" ("userId", "imageId", reaction) VALUES ($1::bigint, $2::bigint, 'Like')"#,
                remove:
                    #"DELETE FROM "PlainReaction" WHERE "userId" = $1::bigint AND "imageId" = $2::bigint AND reaction = 'Like'"#
            )
        }
    }

    /// With every map that is read in Redis.
    private func inStopWrites() async throws -> Cost {
        let agent = try site.stack.startAgent()
        for user in 1...Int64(site.users) {
            try site.session.query("SELECT reactions.flags($1, 1)", [String(user)])
        }
        return try await measure(agent: agent) { [self] client in
            try work(
                client, read: "SELECT entity_id, flags FROM reactions.flags_many($1::bigint, $2::bigint[], 'Image')",
                create: "SELECT reactions.react($1::bigint, $2::bigint, 'Like', 'Image')",
                remove: "SELECT reactions.unreact($1::bigint, $2::bigint, 'Like', 'Image')")
        }
    }

    private func measure(
        agent: ServerProcess?, _ body: @escaping @Sendable (_ client: Int) throws -> Void
    ) async throws -> Cost {
        try site.session.execute("CHECKPOINT")
        let before = try now()
        _ = try await runClients(Self.clients, body)
        if let agent {
            try await site.stack.drained(site.session)
            // Its sessions tell what they have touched when they end.
            agent.stop()
        }
        let after = try now()
        return Cost(
            buffers: after.buffers - before.buffers, walBytes: after.walBytes - before.walBytes,
            cpuSeconds: after.cpuSeconds - before.cpuSeconds)
    }

    private func now() throws -> Cost {
        let row = try site.session.query(
            """
            SELECT blks_hit + blks_read, pg_current_wal_lsn() - '0/0' FROM pg_stat_database WHERE datname = current_database()
            """)[0].map { Double($0 ?? "") ?? .nan }
        return Cost(buffers: row[0], walBytes: row[1], cpuSeconds: cpuSecondsOfTree(site.postgres.process.pid))
    }

    /// The same statements for either: users, pages and writes from the same random numbers.
    private func work(_ client: Int, read: String, create: String, remove: String) throws {
        let session = try site.stack.connect()
        let reading = try PreparedStatement(session, read)
        let creating = try PreparedStatement(session, create)
        let removing = try PreparedStatement(session, remove)
        var random = SplitMix(seed: UInt64(client))
        var created: [(user: Int64, image: Int64)] = []
        for statement in 0..<statements {
            // A client's own users: none waits for another.
            let user =
                Int64.random(in: 0..<Int64(site.users / Self.clients), using: &random) * Int64(Self.clients)
                + Int64(client) + 1
            if statement % 20 != 0 {
                let first = Int64.random(in: 1..<1_000_000, using: &random)
                try reading.run([.bigint(user), .bigints((0..<Self.pageSize).map { first + $0 * 37 })]) { _ in }
            } else if statement % 40 == 0 {
                // Beyond the images of the rows, and one for each statement: it is new.
                let image = 2_000_000 + Int64(statement)
                try creating.run([.bigint(user), .bigint(image)]) { _ in }
                created.append((user, image))
            } else if let (user, image) = created.popLast() {
                try removing.run([.bigint(user), .bigint(image)]) { _ in }
            }
        }
    }
}
