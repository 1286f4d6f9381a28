import TestSupport
import Testing

/// What `reactions.stats` and the agent's metrics say of reads and of what Redis holds, on servers of one's own, whose counters are no
/// other test's.
@Suite("Monitoring") struct MonitoringTests {
    static let counters = [
        "regular_entity_hits", "regular_entity_misses", "viral_entity_hits", "viral_entity_misses",
        "absent_entity_misses", "table_fallbacks", "table_reads", "clickhouse_fallbacks", "misses",
    ]

    /// Of all sessions, by name; those that are 0 are left out.
    private func counted(_ session: PostgresConnection) throws -> [String: Int] {
        let rows = try session.query(
            "SELECT name, value FROM reactions.stats WHERE kind = 'counter' AND shared AND value <> 0")
        let values = rows.map { ($0[0] ?? "", Int($0[1] ?? "") ?? -1) }
        return Dictionary(values.filter { Self.counters.contains($0.0) }) { $1 }
    }

    /// What a query answers, and what it has counted.
    private struct Asked: Equatable {
        var answer: String?
        var counted: [String: Int]

        init(_ answer: String?, _ counted: [String: Int] = [:]) {
            self.answer = answer
            self.counted = counted
        }
    }

    private func ask(_ sql: String, _ session: PostgresConnection) throws -> Asked {
        let before = try counted(session)
        let answer = try session.value(sql)
        return Asked(answer, try counted(session).merging(before, uniquingKeysWith: -).filter { $0.value != 0 })
    }

    private struct Page {
        let port: UInt16

        /// Of a series, by its name with its labels.
        func value(_ series: String) throws -> Double? {
            let body = try HTTP.request("http://127.0.0.1:\(port)/metrics", timeoutSeconds: 10).body
            let line = String(decoding: body, as: UTF8.self).split(separator: "\n").first { $0.hasPrefix(series + " ") }
            return line.flatMap { Double($0.dropFirst(series.count + 1)) }
        }

        /// The same while it is waited for; the page may not be there yet.
        func seen(_ series: String) -> Double? { try? value(series) }
    }

    @Test("a read is counted once, by what Redis had of it, in every way of being answered")
    func reads() async throws {
        let postgres = try await PostgresServer.start(sharedPreloadLibraries: ["pg_reactions"])
        let redis = try await RedisServer.start()
        let stack = try await Stack.make(postgres: postgres, redis: redis)
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: "switch_reads")
        try session.execute(
            """
            INSERT INTO "ImageReaction" ("imageId", "userId", reaction) SELECT 1, u, 'Heart' FROM generate_series(1, 4) u;
            SELECT reactions.add_entity_type('Post');
            UPDATE reactions.entity_type SET viral_threshold = 1100, regular_threshold = 900 WHERE entity_type = 'Post';
            SET reactions.max_keys_per_transaction = 10000;
            SELECT count(reactions.react(u, 1, 'Like', 'Post')) FROM generate_series(1, 1300) u;
            SELECT count(reactions.react(u, 2, 'Cry', 'Post')) FROM generate_series(1, 5) u
            """)
        let page = Page(port: try FreePort.next())
        let agent = try stack.startAgent(
            Stack.withoutMatches + [
                "--set", "agent.http_port=\(page.port)", "--set", "match.watch_interval=250ms", "--set",
                "reconcile.interval=0s",
            ])
        defer { agent.stop(15) }
        try await stack.drained(session)
        try await eventually(within: .seconds(60), "the table is brought over") {
            try session.value("SELECT bool_and(backfilled) FROM reactions.status()") == "t"
        }
        func ask(_ sql: String) throws -> Asked { try self.ask(sql, session) }
        func tiers() throws -> String? {
            try session.value(
                "SELECT string_agg(coalesce((reactions.entity_status(e, 'Post')).tier, '-'), ' ') FROM generate_series(1, 2) e"
            )
        }
        func warm() async throws {
            try await eventually(within: .seconds(60), "both are in Redis") {
                // Whoever misses asks again: what was wanted before the agent knew the type is forgotten.
                try session.execute("SELECT count(*) FROM reactions.counts('{1,2}', 'Post')")
                return try tiers() == "viral regular"
            }
        }
        try await warm()

        #expect(
            try ask("SELECT (reactions.entity_status(1, 'Post')).tier") == .init("viral"))
        #expect(
            try ask("SELECT count(*) FROM reactions.counts('{1,2,3}', 'Post')")
                == .init(
                    "12",
                    [
                        "viral_entity_hits": 1, "regular_entity_hits": 1, "absent_entity_misses": 1,
                        "clickhouse_fallbacks": 1,
                    ]))
        #expect(
            try ask("SELECT count(*) FROM reactions.reactors(1, page_size => 900, entity_type => 'Post')")
                == .init("900", ["viral_entity_hits": 1]))
        #expect(
            try ask("SELECT count(*) FROM reactions.reactors(2, entity_type => 'Post')")
                == .init("5", ["regular_entity_hits": 1]))
        #expect(try ask("SELECT reactions.total(1, 'Post')") == .init("1300", ["viral_entity_hits": 1]))
        // Below the sample, by design; in as many queries as it takes.
        var below = try ask("SELECT count(*) FROM reactions.reactors(1, page_size => 1200, entity_type => 'Post')")
        let queries = below.counted.removeValue(forKey: "clickhouse_fallbacks") ?? 0
        #expect(queries > 0 && below == .init("1200", ["viral_entity_misses": 1]))
        // Only ClickHouse knows, and Redis is not asked.
        #expect(try ask("SELECT reactions.ever_reacted(2, 'Post')") == .init("5"))

        // The table answers for what Redis has not: of a user, and of an entity.
        try await stack.drained(session)
        try redis.connect().command("FLUSHALL")
        let byTable = ["table_fallbacks": 1, "table_reads": 1]
        #expect(
            try ask("SELECT reactions.flags(1, 1, 'Image')")
                == .init("2", byTable.merging(["misses": 1]) { $0 + $1 }))
        #expect(
            try ask("SELECT reactions.total(1, 'Image')")
                == .init("4", byTable.merging(["absent_entity_misses": 1]) { $0 + $1 }))
        #expect(
            try ask("SELECT count(*) FROM reactions.counts('{1,2}', 'Post')")
                == .init("8", ["absent_entity_misses": 2, "clickhouse_fallbacks": 1]))
        try await warm()

        // With Redis away nobody knows, and nothing is a hit or a miss.
        redis.stop()
        try session.execute("SET reactions.on_unavailable = 'null'")
        #expect(try ask("SELECT reactions.total(1, 'Post')") == .init(nil))
        try await redis.restart()

        try await eventually(within: .seconds(60), "the agent tells the same counters") {
            let counted = try counted(session)
            return Self.counters.allSatisfy {
                page.seen("reactiond_backend_\($0)_total") == Double(counted[$0] ?? 0)
            }
        }
        // They begin anew with the server, and whoever scrapes them is told.
        let absent = try #require(try page.value("reactiond_backend_absent_entity_misses_total"))
        let since = try #require(try page.value("reactiond_backend_since_timestamp_seconds"))
        #expect(absent >= 4)
        postgres.stop()
        try await postgres.start()
        try await eventually(within: .seconds(60), "the counters of the new server are told") {
            page.seen("reactiond_backend_since_timestamp_seconds") ?? 0 > since
                && page.seen("reactiond_backend_absent_entity_misses_total") == 0
        }
    }

    @Test("each shard's entities, tiers and memory are told as Redis has them, and what the mirror still has to do")
    func gauges() async throws {
        let redis = try await RedisServer.start()
        let stack = try await Stack.make(redis: redis)
        let session = try stack.connect()
        try session.execute(
            """
            SELECT reactions.add_entity_type('Post');
            UPDATE reactions.entity_type SET viral_threshold = 50, regular_threshold = 40;
            SELECT count(reactions.react(u, 107, 'Like', 'Post')) FROM generate_series(1, 60) u;
            SELECT count(reactions.react(u, e, 'Cry', 'Post')) FROM generate_series(1, 5) u, unnest('{7,8}'::bigint[]) e
            """)
        func stat(_ name: String) throws -> String? {
            try session.value("SELECT value FROM reactions.stats WHERE name = '\(name)'")
        }
        // Not known yet, except that nothing was done.
        #expect(try stat("viral_entities") == nil)
        #expect(Double(try stat("oldest_event_seconds") ?? "") ?? 0 > 0)
        let page = Page(port: try FreePort.next())
        let agent = try stack.startAgent(
            Stack.withoutMatches + ["--set", "agent.http_port=\(page.port)", "--set", "reconcile.interval=0s"])
        defer { agent.stop(15) }
        try await stack.drained(session)
        try await eventually("no batch is left") { try stat("batches_behind") == "0" }
        #expect(try stat("batches_unconfirmed") == "0")
        try await eventually(within: .seconds(60), "nothing is behind, and so it is told") {
            ["clickhouse", "user_maps", "removals", "entities"].allSatisfy {
                page.seen("reactiond_mirror_behind_batches{destination=\"\($0)\"}") == 0
            } && page.seen("reactiond_outbox_oldest_event_seconds") == 0
        }
        #expect(try page.value("reactiond_shard_viral_entities{type=\"Post\",shard=\"7\"}") == nil)

        try session.execute("SELECT reactions.flags(207, 7, 'Post')")
        try await eventually(within: .seconds(60), "all are in Redis") {
            try session.execute("SELECT count(*) FROM reactions.counts('{7,8,107}', 'Post')")
            return try session.value(
                "SELECT bool_and((reactions.entity_status(e, 'Post')).tier IS NOT NULL) FROM unnest('{7,8,107}'::bigint[]) e"
            ) == "t"
        }
        try await stack.reactiond("reconcile")
        let keys = try redis.keys(stack.prefix + "*")
        func bytes(of entity: Int) throws -> Int {
            try keys.filter { $0.hasPrefix("\(stack.prefix)post:\(entity % 100):\(entity):") }
                .reduce(0) { $0 + (try redis.command(["MEMORY", "USAGE", $1]).integer.map { Int($0) } ?? 0) }
        }
        let shards = try session.query(
            """
            SELECT shard, regular_entities, viral_entities, entity_bytes, user_maps FROM reactions.redis_shards
            WHERE entity_bytes > 0 OR user_maps > 0 ORDER BY shard
            """
        ).map { $0.map { $0 ?? "" } }
        #expect(
            shards == [
                ["7", "1", "1", "\(try bytes(of: 7) + bytes(of: 107))", "1"],
                ["8", "1", "0", "\(try bytes(of: 8))", "0"],
            ])
        #expect(try session.value("SELECT count(*) FROM reactions.redis_shards") == "100")
        #expect(try stat("regular_per_viral_entity") == "2.000" && stat("reconciled_last_day") == "1")
        #expect(try stat("entity_bytes") == "\(try bytes(of: 7) + bytes(of: 8) + bytes(of: 107))")
        try await eventually(within: .seconds(60), "a run that somebody else has made is told") {
            page.seen("reactiond_shard_viral_entities{type=\"Post\",shard=\"7\"}") == 1
        }
        #expect(
            try page.value("reactiond_shard_entity_bytes{type=\"Post\",shard=\"8\"}") == Double(try bytes(of: 8)))
        #expect(try page.value("reactiond_shard_entity_bytes{type=\"Post\",shard=\"9\"}") == 0)
        #expect(try page.value("reactiond_reconcile_duration_seconds") ?? -1 >= 0)
        #expect(try page.value("reactiond_reconcile_interval_seconds") == nil)
        let server = "{server=\"\(redis.socketPath)\"}"
        try await eventually(within: .seconds(60), "the server's memory is told") {
            page.seen("reactiond_redis_used_memory_bytes\(server)") ?? 0 > 100_000
        }
        #expect(try page.value("reactiond_redis_reachable_bool\(server)") == 1)
        #expect(try page.value("reactiond_redis_max_memory_bytes\(server)") == nil)
    }

    @Test("counters of single sessions are nobody's, and are not told")
    func notPreloaded() async throws {
        let stack = try await Stack.make(postgres: try await PostgresServer.shared.value)
        let session = try stack.connect()
        #expect(try session.value("SELECT bool_or(shared) FROM reactions._stats()") == "f")
        let page = Page(port: try FreePort.next())
        let agent = try stack.startAgent(
            ["--set", "agent.http_port=\(page.port)", "--set", "match.watch_interval=250ms"])
        defer { agent.stop(15) }
        try await eventually("the watch has looked") { page.seen("reactiond_outbox_oldest_event_seconds") != nil }
        #expect(try page.value("reactiond_backend_reads_total") == nil)
        #expect(try page.value("reactiond_backend_since_timestamp_seconds") == nil)
    }
}
