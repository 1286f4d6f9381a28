import Foundation
import Pipeline
import PostgresSource
import ReactionModel
import RedisStore
import TestSupport
import Testing

@testable import ReactionAgent

@Suite("Reconcile", .serialized) struct ReconcileTests {
    @Test("each fault is told apart and repaired, and what is right is left as it is", arguments: RedisKind.allCases)
    func faults(kind: RedisKind) async throws {
        let site = try await ReconcileSite.make(redis: try await kind.shared())
        for entity in Int64(1)...12 { try site.like(entity, users: 3) }
        try await site.mirror()
        for entity in Int64(1)...12 { try site.build(entity, likes: 3) }
        func redis(_ arguments: String...) throws { _ = try site.stack.redisDeployment.command(arguments) }
        // 1 is right. Somebody has counted by hand; dropped the list; planted a string; left a sample of another time.
        try redis("HINCRBY", site.key(2), "Like", "1")
        try redis("DEL", site.key(3, ":reactions"))
        try redis("DEL", site.key(4))
        try redis("SET", site.key(4), "planted")
        try redis("SET", site.key(5, ":sample"), "old")
        try redis("DEL", site.key(6))
        try site.build(7, likes: 3, listNonce: Array("ffff0123456789ab".utf8))
        try redis("DEL", site.key(8, ":reactions"))
        try redis("RPUSH", site.key(8, ":reactions"), "planted")
        try redis("HSET", site.key(9), "Angry", "7")
        let other = Stamp(redisHistory: [1], systemIdentifier: 1, timeline: 1, epoch: 0)
        try site.build(10, likes: 3, stamp: other)
        try redis("DEL", site.key(11), site.key(11, ":reactions"))
        for field in 0..<200 { try redis("HSET", site.key(11), "f\(field)", "1") }
        try redis("HSET", site.key(12), "users", "2")
        func watermark(_ shard: Int32) -> String {
            String(decoding: site.keys.applied(of: "Post", shard: shard), as: UTF8.self)
        }
        // Not of the type: a watermark of a shard that there is not, lists of types that there are not, somebody else's key.
        try redis("SET", watermark(100), "x")
        try redis("SET", watermark(99), "x")
        try redis("ZADD", "\(site.stack.prefix)reactions:wanted:Gone", "1", "1")
        try redis("SET", "\(site.stack.prefix)somebody:else", "x")
        try redis("HSET", "\(site.stack.prefix)user:7:7:reactions", "_", "x")
        // A user map and the compared reads of another type.
        let map = "\(site.stack.prefix)user:8:8:reactions"
        try redis("SET", map, "planted")
        try redis("SET", "\(site.stack.prefix)reactions:compared:Post", "planted")

        let run = await site.reconcile()
        #expect(run.hasEndedWell, "\(run.output)")
        #expect(
            try site.findings() == [
                ["drift", "2", "t"], ["missing_part", "3", "t"], ["wrong_type", "4", "t"], ["leftover", "5", "t"],
                ["no_counts", "6", "t"], ["wrong_nonce", "7", "t"], ["wrong_type", "8", "t"], ["drift", "9", "t"],
                ["wrong_type", "11", "t"], ["drift", "12", "t"], ["orphan", "", "t"], ["orphan", "", "t"],
                ["wrong_type", "", "t"], ["wrong_type", "", "t"],
            ], "\(run.output)")
        #expect(try site.redis("EXISTS", map) == .integer(0))
        // SCAN may tell a key twice. The agent that has mirrored the truth claimed the shards of its twelve entities.
        for (name, least) in [("regular", 1), ("stale", 1), ("user_map", 1), ("unknown", 1), ("other", 12 + 2)] {
            #expect(try site.count(name) >= least, "\(name)")
        }
        // Those to be built anew, and they alone.
        #expect(try site.wanted() == ["11", "12", "2", "3", "4", "7", "8", "9"])
        for entity in [2, 3, 4, 6, 7, 8, 9, 11, 12] as [Int64] {
            for suffix in KeySpace.entitySuffixes {
                #expect(try !site.exists(entity, suffix), "\(entity) \(suffix)")
            }
        }
        for entity in [1, 5, 10] as [Int64] { #expect(try site.exists(entity) && site.exists(entity, ":reactions")) }
        #expect(try !site.exists(5, ":sample"))
        #expect(try site.redis("EXISTS", watermark(99)) == .integer(1))
        #expect(try site.redis("EXISTS", "\(site.stack.prefix)somebody:else") == .integer(1))
        #expect(try site.session.value("SELECT ok FROM reactions.doctor() WHERE \"check\" = 'reconcile'") == "t")

        let again = await site.reconcile()
        #expect(again.hasEndedWell && again.output.contains(" 0 faults"), "\(again.output)")
        #expect(try site.count("regular") >= 2)
    }

    @Test("a dry run changes nothing, and repairs end at the cap, with what is left told by the status")
    func dryRunAndCap() async throws {
        let site = try await ReconcileSite.make()
        for entity in Int64(1)...10 { try site.build(entity, likes: 1) }
        func dumps() throws -> [TestSupport.RedisReply] {
            try (1...10).flatMap {
                try [site.redis("DUMP", site.key($0)), site.redis("DUMP", site.key($0, ":reactions"))]
            }
        }
        let before = try dumps()
        let dry = await site.reconcile("--dry-run")
        #expect(!dry.hasEndedWell && dry.output.contains("would be built anew"), "\(dry.output)")
        #expect(try dumps() == before && site.wanted().isEmpty)
        #expect(try site.session.value("SELECT ok FROM reactions.doctor() WHERE \"check\" = 'reconcile'") == "f")

        let capped = await site.reconcile("--max-repairs", "4")
        #expect(!capped.hasEndedWell, "\(capped.output)")
        #expect(
            try site.session.query("SELECT found, repaired, remaining FROM reactions.reconcile_status") == [
                ["10", "4", "6"]
            ])
        #expect(try site.wanted().count == 4)
        #expect(await site.reconcile().hasEndedWell)
        #expect(try site.wanted().count == 10)
        let unknown = await site.reconcile("--type", "Nothing")
        #expect(!unknown.hasEndedWell && unknown.output.contains("does not exist"), "\(unknown.output)")
    }

    @Test("counts are compared as of the chunk that they are of, whatever ClickHouse has got since")
    func asOf() async throws {
        let site = try await ReconcileSite.make()
        try site.like(1, users: 2)
        try site.like(2, users: 2)
        try await site.mirror()
        let counted = try site.counted
        // The next batch is in ClickHouse, in two chunks, and neither finished nor, but for a part, counted.
        let next = counted.batch.rawValue + 1
        try site.stack.clickHouse.query(
            """
            INSERT INTO \(site.stack.clickHouseDatabase).reactionDeltas (entityType, entityId, metricType, delta, batch, part)
            VALUES ('Post', 1, 'ReactionLike', 1, \(next), 0), ('Post', 1, 'ReactionLike', 5, \(next), 10), ('Post', 2, 'ReactionLike', 1, \(next), 0)
            """)
        try site.build(1, likes: 3, counted: CountedChunk(batch: BatchNumber(rawValue: next), part: 0))
        try site.build(2, likes: 2)
        let run = await site.reconcile()
        #expect(run.hasEndedWell && run.output.contains("0 faults"), "\(run.output)")
        // The same counts of another moment are wrong.
        try site.build(1, likes: 3, counted: CountedChunk(batch: BatchNumber(rawValue: next), part: 10))
        try site.build(2, likes: 3)
        await site.reconcile()
        #expect(try site.findings() == [["drift", "1", "t"], ["drift", "2", "t"]])
    }

    @Test("what is between two pages of users who are gone is not compared before the batch is finished")
    func pages() async throws {
        let site = try await ReconcileSite.make()
        try site.like(1, users: 2)
        try await site.mirror()
        let batch = try site.counted.batch.rawValue + 1
        // Both users have gone: ClickHouse has it at one place, and Redis has got the first of them.
        try site.session.execute(
            """
            INSERT INTO reactions._batch (batch, snapshot, sequence_seen, chunk_events, events, checksum, confirmed_at)
            VALUES (\(batch), pg_current_snapshot(), 0, 10, 2, 0, now() + interval '1 day')
            """)
        try site.stack.clickHouse.query(
            """
            INSERT INTO \(site.stack.clickHouseDatabase).reactionDeltas (entityType, entityId, metricType, delta, batch, part)
            VALUES ('Post', 1, 'ReactionLike', -2, \(batch), 0)
            """)
        try site.build(1, likes: 1, counted: CountedChunk(batch: BatchNumber(rawValue: batch), part: 0))
        let run = await site.reconcile()
        #expect(run.hasEndedWell && run.output.contains("0 faults"), "\(run.output)")
        #expect(try site.count("regular") == 1 && site.count("unverified") == 1)
        try site.session.execute("UPDATE reactions._batch SET finished_at = now() WHERE batch = \(batch)")
        await site.reconcile()
        #expect(try site.findings() == [["drift", "1", "t"]])
    }

    @Test("a ClickHouse that has lost what it had confirmed before it started is not believed, until it has it again")
    func lost() async throws {
        let site = try await ReconcileSite.make()
        try site.like(1, users: 2)
        try await site.mirror()
        try site.build(1, likes: 2)
        let table = "\(site.stack.clickHouseDatabase).reactionDeltas"
        let row = "'Post', 1, 'ReactionLike', 1, \(try site.counted.batch.rawValue), 999"
        try site.stack.clickHouse.query(
            "INSERT INTO \(table) (entityType, entityId, metricType, delta, batch, part) VALUES (\(row))")
        try site.session.execute("UPDATE reactions._batch SET confirmed_at = '2000-01-01'")
        let run = await site.reconcile()
        #expect(run.hasEndedWell && run.output.contains(" 0 faults"), "\(run.output)")
        #expect(try site.exists(1) && site.count("regular") == 1 && site.count("unverified") == 1)
        // It was confirmed by the server as it is.
        try site.session.execute("UPDATE reactions._batch SET confirmed_at = now() + interval '1 day'")
        await site.reconcile()
        #expect(try site.findings() == [["drift", "1", "t"]])
    }

    @Test("--deep finds sums that the events do not confirm, and users that are not there")
    func deep() async throws {
        let site = try await ReconcileSite.make()
        for entity in Int64(1)...3 { try site.like(entity, users: 2) }
        try site.session.execute(
            "SELECT reactions.react(1, 3, 'Heart', 'Post'), reactions.unreact(2, 3, 'Like', 'Post')")
        try await site.mirror()
        let batch = try site.counted.batch.rawValue
        try site.stack.clickHouse.query(
            """
            INSERT INTO \(site.stack.clickHouseDatabase).reactionDeltas (entityType, entityId, metricType, delta, batch, part)
            VALUES ('Post', 2, 'ReactionLike', 1, \(batch), 999)
            """)
        try site.session.execute("UPDATE reactions._batch SET confirmed_at = now() + interval '1 day'")
        try site.build(1, likes: 2)
        try site.build(2, likes: 3)
        try site.build(3, likes: 1, flags: 3)
        #expect(await site.reconcile().hasEndedWell)
        let deep = await site.reconcile("--deep")
        #expect(!deep.hasEndedWell && deep.output.contains("Like 3 by deltas, 2 by events"), "\(deep.output)")
        #expect(try site.findings() == [["wrong_deltas", "2", "f"]], "\(deep.output)")
    }

    @Test("popular entities live on, others go when their time has come")
    func popularity() async throws {
        let site = try await ReconcileSite.make()
        let now = Int64(Date().timeIntervalSince1970)
        // Built 20 hours ago; 1 was used since, 2 only when it was built, 3 has time left, 4 lives for ever.
        for entity in Int64(1)...4 { try site.build(entity, likes: 0, builtAt: now - 72_000) }
        for (entity, idle) in [(1, 3_600), (2, 72_000)] as [(Int64, Int)] {
            try site.age(entity, idle: idle, timeToLive: 14_400_000)
        }
        try site.age(3, idle: 72_000, timeToLive: 80_000_000)
        try site.age(4, idle: 72_000, timeToLive: 0)
        await site.reconcile()
        func left(_ entity: Int64, _ suffix: StaticString = KeySpace.countsSuffix) throws -> Int64 {
            try site.redis("TTL", site.key(entity, suffix)).integer ?? -9
        }
        #expect(try left(1) > 86_000 && left(1, ":reactions") > 86_000)
        #expect(try (14_000...14_400).contains(left(2)) && (79_000...80_000).contains(left(3)) && left(4) > 86_000)
        // That the command has looked at it does not make an entity popular.
        try site.redis("EXPIRE", site.key(1), "14400")
        await site.reconcile()
        #expect(try left(1) <= 14_400)
        #expect(
            try site.session.value(
                "SELECT string_agg(kept::text, ' ' ORDER BY reconcile_run_id) FROM reactions.reconcile_run") == "2 0")
    }

    @Test("an entity that was built anew after it was looked at is neither dropped nor kept alive")
    func otherLife() async throws {
        let site = try await ReconcileSite.make()
        try site.build(1, likes: 1)
        let source = try await site.source()
        let place = try await source.place()
        let scan = CacheScan(settings: site.redisSettings, place: place)
        _ = try await scan.begin()
        let entity = EntityAddress(typeID: try #require(place.types.first).typeID, id: 1)
        let look = try #require(try await scan.look(at: [entity])[entity])
        // Counted since: the same life, and as wrong as before.
        try site.build(1, likes: 1, counted: CountedChunk(batch: BatchNumber(rawValue: 1 << 44), part: 0))
        #expect(try await scan.keep([(entity, look)], seconds: 99) == 1)
        try site.redis(
            "HSET", site.key(1), "_",
            String(decoding: site.stamp(of: 1).digits, as: UTF8.self) + ":ffff0123456789ab:r:1:0:1")
        #expect(try await !scan.repair(entity, look, .rebuild))
        #expect(try await scan.keep([(entity, look)], seconds: 77) == 0)
        #expect(try site.exists(1) && site.wanted().isEmpty)
        // Somebody flushes the scripts; Redis restarts in the middle of a run.
        try site.stack.redis.connect().command("SCRIPT", "FLUSH")
        #expect(try await scan.look(at: [entity])[entity]?.marker != nil)
        await source.close()
    }
}
