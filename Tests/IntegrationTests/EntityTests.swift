import Glibc
import TestSupport
import Testing

/// An entity's side, from the functions to the servers.
@Suite("Entities") struct EntityTests {
    /// All pages of the size, as (user, flags).
    private func pages(
        _ session: PostgresConnection, _ entity: Int, of size: Int, kind: String? = nil, type: String = "Image"
    ) throws -> [[String]] {
        var rows: [[String]] = []
        var cursor: String?
        while true {
            let page = try page(session, entity, size, kind: kind, after: cursor, type: type)
            rows += page.rows
            cursor = page.cursor
            if page.rows.count < size { return rows }
        }
    }

    private func page(
        _ session: PostgresConnection, _ entity: Int, _ size: Int, kind: String? = nil, after cursor: String?,
        type: String = "Image"
    ) throws -> (rows: [[String]], cursor: String?) {
        let rows = try session.query(
            "SELECT user_id, flags, next_cursor FROM reactions.reactors($1, $2, $3, $4, $5)",
            ["\(entity)", kind, "\(size)", cursor, type])
        return (rows.map { $0.prefix(2).map { $0 ?? "" } }, rows.last?[2])
    }

    private func counts(_ session: PostgresConnection, _ entities: String, type: String = "Image") throws -> String {
        try session.value(
            "SELECT string_agg(count::text, ' ') FROM reactions.counts('{\(entities)}', '\(type)')") ?? ""
    }

    @Test("reactions are counted within the lag, and the pages of who has reacted agree with the counts")
    func native() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image'), reactions.add_entity_type('Post', 'exclusive')")
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        #expect(try counts(session, "1,2") == "0 0 0 0 0 0 0 0")
        try session.execute("SELECT reactions.react(u, 1, 'Like') FROM generate_series(1, 30) u")
        try session.execute("SELECT reactions.react(u, 1, 'Heart') FROM generate_series(10, 12) u")
        try session.execute("SELECT reactions.unreact(u, 1, 'Like') FROM generate_series(12, 14) u")
        // The same number of the other type.
        try session.execute(
            "SELECT reactions.react(u, 1, 'Cry', 'Post'), reactions.react(u, 1, 'Laugh', 'Post') FROM generate_series(1, 3) u"
        )
        let committed = ContinuousClock.now
        try await eventually("the reactions are counted") { try counts(session, "2,1") == "0 0 0 0 27 3 0 0" }
        print("counted after \(ContinuousClock.now - committed)")
        try await eventually("those of the other type are counted") {
            try counts(session, "1", type: "Post") == "0 0 3 0"
        }
        #expect(try session.value("SELECT reactions.total(1)") == "30")
        #expect(try session.value("SELECT reactions.unique_reactors(1)") == "28")
        #expect(try session.value("SELECT reactions.unique_reactors(1, 'Post')") == "3")
        #expect(try session.value("SELECT estimated_users FROM reactions.ever_reacted(1)") == "30")
        #expect(try session.value("SELECT reactions.is_viral(1)") == "f")

        let moved = [["12", "2"], ["11", "3"], ["10", "3"]]
        let expected = moved + (15...30).reversed().map { ["\($0)", "1"] } + (1...9).reversed().map { ["\($0)", "1"] }
        for size in [1, 5, 28, 100] { #expect(try pages(session, 1, of: size) == expected) }
        #expect(try pages(session, 1, of: 2, kind: "Heart") == moved)
        #expect(try pages(session, 1, of: 2, type: "Post") == [["3", "4"], ["2", "4"], ["1", "4"]])
        #expect(
            try session.value("SELECT bool_and(now() - reacted_at < interval '5 minutes') FROM reactions.reactors(1)")
                == "t")
    }

    @Test("a viral post's reactors are told once each, while others come and go, over the end of the sample")
    func viral() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        try session.execute("UPDATE reactions.entity_type SET viral_threshold = 1500, regular_threshold = 1200")
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        try session.execute("SET reactions.max_keys_per_transaction = 10000")
        try session.execute("SELECT reactions.react(u, 1, 'Like') FROM generate_series(1, 2500) u")
        try await stack.drained(session)
        try await eventually("the post is viral") {
            _ = try counts(session, "1")
            return try session.value("SELECT reactions.is_viral(1)") == "t"
        }
        // Who is not in a sample has reacted all the same.
        #expect(
            try session.value("SELECT bool_and(reactions.flags(u, 1) = 1) FROM generate_series(1, 2500, 100) u") == "t")
        #expect(try session.value("SELECT reactions.flags(2501, 1)") == "0")

        let writer = try stack.connect()
        var seen: [String] = []
        var cursor: String?
        var next = 3000
        while true {
            let page = try page(session, 1, 130, after: cursor)
            seen += page.rows.map { $0[0] }
            cursor = page.cursor
            if page.rows.count < 130 { break }
            // New ones at the front, some that leave, and some that had been told move to the front.
            try writer.execute("SELECT reactions.react(u, 1, 'Heart') FROM generate_series(\(next), \(next + 20)) u")
            try writer.execute(
                "SELECT reactions.unreact(\(next % 97 * 10 + 5), 1, 'Like'), reactions.react(2500 - \(next % 50), 1, 'Cry')"
            )
            next += 21
        }
        #expect(Set(seen).count == seen.count)
        let left = Set(stride(from: 3000, to: next, by: 21).map { $0 % 97 * 10 + 5 })
        let stayed = Set((1...2450).filter { !left.contains($0) }.map(String.init))
        #expect(stayed.subtracting(seen) == [])
        try await stack.drained(session)
        let total = try session.value("SELECT reactions.unique_reactors(1)") ?? ""
        #expect(try pages(session, 1, of: 1000).count == Int(total))
    }

    @Test("a type keeps its counts on its way out of its table, and a cursor its order or none")
    func phases() async throws {
        let stack = try await Stack.make()
        let site = try BackfillSite.make(stack, rows: 600)
        let session = site.session
        try site.attach()
        try await site.backfilledByAgent()
        let agent = try stack.startAgent(Stack.withoutMatches)
        defer { agent.stop(15) }
        let entities = "0,1,7,50,119"
        let expected = try counts(session, entities)
        #expect(expected.contains { $0 != "0" && $0 != " " })
        func everybody(_ entity: Int) throws -> Set<[String]> { Set(try pages(session, entity, of: 2)) }
        let reactors = try everybody(7)
        let first = try page(session, 7, 1, after: nil)

        for phase in ["dual_read", "switch_reads"] {
            try session.execute("CALL reactions.advance('Image', force => true)")
            #expect(try session.value("SELECT phase FROM reactions.status()") == phase)
            #expect(try counts(session, entities) == expected)
            #expect(try everybody(7) == reactors)
            // An order that has begun by the table goes on by the table.
            #expect(Set(try page(session, 7, 100, after: first.cursor).rows) == reactors.subtracting(first.rows))
        }
        try session.execute("CALL reactions.advance('Image', force => true)")
        #expect(try counts(session, entities) == expected)
        #expect(try everybody(7) == reactors)
        let refused = #expect(throws: PostgresError.self) { try page(session, 7, 100, after: first.cursor) }
        #expect(refused?.sqlstate == "55000")
        let mirrored = try page(session, 7, 1, after: nil)

        // And back: what began by the newest event goes on so.
        try await eventually("the type is back") {
            try session.execute("CALL reactions.rollback('Image')")
            return try session.value("SELECT phase FROM reactions.status()") == "attached"
        }
        #expect(try counts(session, entities) == expected)
        #expect(Set(try page(session, 7, 100, after: mirrored.cursor).rows) == reactors.subtracting(mirrored.rows))
    }

    @Test("counts that are to be asked of a table that is frozen meanwhile are ClickHouse's")
    func lateQuestion() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: "switch_reads")
        try session.execute(#"INSERT INTO "ImageReaction" ("imageId", "userId", reaction) VALUES (1, 7, 'Heart')"#)
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        try await stack.drained(session)
        try stack.redis.connect().command("UNLINK", stack.prefix + "image:1:1:reaction_counts")

        // The reader knows that the table is the truth and that Redis has no counts, and stops before it asks the table.
        let proxy = try FaultProxy(target: stack.redis.port)
        let reader = try stack.connect()
        try reader.execute(
            """
            SET reactions.redis_url = 'redis://127.0.0.1:\(proxy.port)/0'; SET reactions.redis_timeout = '60s';
            SET reactions.fill_wait = 1
            """)
        proxy.breakNext(containing: "ZINCRBY", .holdAnswer)
        async let late = onThread { Result { try counts(reader, "1") } }
        try await eventually("the reader is held up") { proxy.faults == 1 }
        try session.execute("CALL reactions.advance('Image', force => true)")
        try session.execute("SELECT reactions.react(8, 1, 'Like')")
        try await stack.drained(session)
        proxy.release()
        #expect(try await late.get() == "1 1 0 0")
    }

    @Test("a hot standby reads an entity's side")
    func standby() async throws {
        let primary = try await PostgresServer.start(sharedPreloadLibraries: ["pg_reactions"])
        let stack = try await Stack.make(postgres: primary)
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        try session.execute(
            "SELECT reactions.react(u, 1, 'Like'), reactions.react(u, 2, 'Cry') FROM generate_series(1, 20) u")
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        try await stack.drained(session)
        let replica = try await PostgresServer.start(sharedPreloadLibraries: ["pg_reactions"]) { path in
            try await PostgresServer.tool(
                "pg_basebackup",
                [
                    "--pgdata", path, "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname",
                    primary.conninfo(),
                ])
        }
        let standby = try stack.moved(to: replica).connect()
        #expect(try standby.value("SELECT pg_is_in_recovery()") == "t")
        #expect(try counts(standby, "1,2,3") == "20 0 0 0 0 0 0 20 0 0 0 0")
        #expect(try standby.value("SELECT reactions.unique_reactors(1)") == "20")
        #expect(try pages(standby, 2, of: 6).count == 20)
        #expect(try standby.value("SELECT reactions.ever_reacted(2)") == "20")
    }

    @Test("a key of the wrong type that somebody planted is a miss, and with Redis gone nothing is zero")
    func trouble() async throws {
        let redis = try await RedisServer.start()
        let stack = try await Stack.make(redis: redis)
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        try session.execute("SELECT reactions.react(u, 5, 'Heart') FROM generate_series(1, 4) u")
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        try await stack.drained(session)
        for suffix in ["reaction_counts", "reactions", "sample"] {
            try redis.connect().command("DEL", stack.prefix + "image:5:5:" + suffix)
            try redis.connect().command("SADD", stack.prefix + "image:5:5:" + suffix, "planted")
        }
        #expect(try counts(session, "5") == "0 4 0 0")
        #expect(try pages(session, 5, of: 3).map { $0[0] } == ["4", "3", "2", "1"])
        #expect(try session.value("SELECT reactions.unique_reactors(5)") == "4")

        redis.stop()
        let unknown = #expect(throws: PostgresError.self) { try session.execute("SELECT reactions.total(5)") }
        #expect(unknown?.sqlstate == "08006")
        try session.execute("SET reactions.on_unavailable = 'null'")
        #expect(try session.query("SELECT count FROM reactions.counts('{5}')") == Array(repeating: [nil], count: 4))
        #expect(try session.value("SELECT reactions.total(5) IS NULL AND reactions.is_viral(5) IS NULL") == "t")
    }
}
