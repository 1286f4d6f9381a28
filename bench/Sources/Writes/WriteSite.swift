import TestSupport

/// Tables of Prisma's shape, one for each way to write a reaction, under a PostgreSQL that keeps what it has acknowledged, with the
/// agent awake.
final class WriteSite {
    /// Entities are drawn from so many that no two of a run's reactions meet on the unique key.
    static let lastEntity = 2_000_000_000
    static let kinds = ["Like", "Heart", "Laugh", "Cry"]

    let stack: Stack
    let session: PostgresConnection
    let users: Int
    private var agent: ServerProcess?

    /// - Parameters:
    ///   - rows: of each table before anything is measured.
    ///   - users: who share these rows, and whose maps are in Redis.
    init(rows: Int, users: Int) async throws {
        let postgres = try await PostgresServer.start(
            sharedPreloadLibraries: ["pg_reactions"],
            configuration: [
                "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "shared_buffers": "1GB",
                // The one checkpoint is ours, between preparing and measuring.
                "max_wal_size": "16GB", "checkpoint_timeout": "1h",
            ])
        stack = try await Stack.make(postgres: postgres)
        session = try stack.connect()
        self.users = users
        try session.execute(
            """
            CREATE TYPE "ReviewReactions" AS ENUM ('Like', 'Dislike', 'Laugh', 'Cry', 'Heart');
            CREATE TABLE "ImageReaction" (
                id serial PRIMARY KEY, "imageId" integer NOT NULL, "userId" integer NOT NULL,
                reaction "ReviewReactions" NOT NULL, "createdAt" timestamp(3) NOT NULL DEFAULT current_timestamp);
            CREATE UNIQUE INDEX ON "ImageReaction" ("imageId", "userId", reaction);
            CREATE INDEX ON "ImageReaction" ("imageId");
            CREATE INDEX ON "ImageReaction" ("userId");
            CREATE TABLE "PlainReaction" (LIKE "ImageReaction" INCLUDING ALL);
            CREATE TABLE "NotifyReaction" (LIKE "ImageReaction" INCLUDING ALL);
            CREATE TABLE "TriggerReaction" (LIKE "ImageReaction" INCLUDING ALL);
            SELECT setseed(0.5);
            """)
        try fill(rows)
        try capture()
        agent = try stack.startAgent(Stack.withoutMatches)
        let session = session
        try await eventually(within: .seconds(300), "the table is brought over") {
            try session.value("SELECT bool_and(backfilled) FROM reactions.status()") == "t"
        }
        try warm()
        try await settle()
        try session.execute("VACUUM ANALYZE")
        try session.execute("CHECKPOINT")
    }

    deinit { agent?.stop(15) }

    var agentPID: Int32 { agent?.pid ?? 0 }

    private func fill(_ rows: Int) throws {
        try session.execute(
            """
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction)
            SELECT k % \(users) + 1, random() * \(Self.lastEntity), \(Self.kind("k % 4 + 1")) FROM generate_series(1, \(rows)) k
            """)
        for table in ["PlainReaction", "NotifyReaction", "TriggerReaction"] {
            try session.execute("INSERT INTO \"\(table)\" SELECT * FROM \"ImageReaction\"")
        }
    }

    /// Ours, and the two ways that one would write by hand.
    private func capture() throws {
        try session.execute(
            """
            SELECT reactions.attach('"ImageReaction"', 'Image', 'userId', 'imageId', 'reaction', 'createdAt',
                phase => 'switch_reads', unknown_kinds => 'skip');
            SELECT reactions.add_entity_type('Post');

            CREATE FUNCTION notify_of_reaction() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_notify('reaction', row_to_json(NEW)::text);
                RETURN NULL;
            END $$;
            CREATE TRIGGER notify_of_reaction AFTER INSERT ON "NotifyReaction"
                FOR EACH ROW EXECUTE FUNCTION notify_of_reaction();

            CREATE TABLE trigger_outbox (
                id bigserial PRIMARY KEY, xid xid8 NOT NULL DEFAULT pg_current_xact_id(), operation text NOT NULL,
                user_id integer NOT NULL, image_id integer NOT NULL, reaction text NOT NULL,
                created_at timestamp NOT NULL, written_at timestamptz NOT NULL DEFAULT clock_timestamp());
            CREATE FUNCTION keep_reaction() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO trigger_outbox (operation, user_id, image_id, reaction, created_at)
                VALUES (TG_OP, NEW."userId", NEW."imageId", NEW.reaction, NEW."createdAt");
                RETURN NULL;
            END $$;
            CREATE TRIGGER keep_reaction AFTER INSERT ON "TriggerReaction" FOR EACH ROW EXECUTE FUNCTION keep_reaction();
            """)
    }

    /// Who writes also reads: every user's maps are in Redis.
    private func warm() throws {
        for type in ["Image", "Post"] {
            try session.execute(
                """
                SELECT count(f) FROM generate_series(1, \(users)) u, reactions.flags_many(u, ARRAY[1::bigint], '\(type)') f
                """)
        }
    }

    /// Waits until the mirror is level and ClickHouse has merged, so that no contender pays for the one before it.
    func settle() async throws {
        try await stack.drained(session)
        try await eventually(within: .seconds(60), "ClickHouse has merged") {
            try stack.clickHouseRows("SELECT count() FROM system.merges") == [["0"]]
        }
    }

    static func kind(_ index: String) -> String {
        "(ARRAY[\(kinds.map { "'\($0)'" }.joined(separator: ","))])[\(index)]::\"ReviewReactions\""
    }

    // MARK: pgbench

    private var draw: String {
        """
        \\set user random(1, \(users))
        \\set image random(1, \(Self.lastEntity))
        \\set kind random(1, \(Self.kinds.count))

        """
    }

    func insert(into table: String) -> String {
        """
        \(draw)INSERT INTO "\(table)" ("userId", "imageId", reaction) VALUES (:user, :image, \(Self.kind(":kind")));

        """
    }

    func react(_ type: String) -> String {
        let kind = "(ARRAY[\(Self.kinds.map { "'\($0)'" }.joined(separator: ","))])[:kind]"
        return "\(draw)SELECT reactions.react(:user, :image, \(kind), '\(type)');\n"
    }
}
