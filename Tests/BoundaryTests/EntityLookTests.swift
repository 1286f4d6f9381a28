import CReactionsBoundary
import ReactionModel
import RedisStore
import TestSupport
import Testing

/// What was counted of entities that Redis was asked for.
struct Looks: Equatable {
    var regularHits: Int64 = 0
    var regularMisses: Int64 = 0
    var viralHits: Int64 = 0
    var viralMisses: Int64 = 0
    var absent: Int64 = 0
    /// Queries to ClickHouse because Redis did not have it all.
    var fallbacks: Int64 = 0
}

extension Looks {
    init(_ counters: rx_counters) {
        regularHits = counters.regular_entity_hits
        regularMisses = counters.regular_entity_misses
        viralHits = counters.viral_entity_hits
        viralMisses = counters.viral_entity_misses
        absent = counters.absent_entity_misses
        fallbacks = counters.clickhouse_fallbacks
    }
}

extension Boundary {
    /// Each entity that Redis is asked for is counted once, by what Redis has of it.
    @Suite struct EntityLooks {
        private func make() async throws -> (Caller, Installer) {
            let (caller, redis, prefix) = try await Boundary.caller()
            return (caller, Installer(redis: redis, prefix: prefix))
        }

        /// Counted since the last time. Nothing of entities is counted as a user's.
        private func looks(_ caller: Caller) -> Looks {
            let counters = caller.takeCounters()
            #expect(counters.hits == 0 && counters.misses == 0)
            return Looks(counters)
        }

        @Test func aPageHasHitsOfEachTierAndMisses() async throws {
            let (caller, installer) = try await make()
            for entity in 1...5 as ClosedRange<Int64> {
                try installer.install(
                    entity, entity < 3 ? .viral : .regular, counts: [1, 0, 0, 0], users: entity == 1 ? nil : 1)
            }
            _ = looks(caller)
            _ = try caller.counts([9, 1, 2, 3, 4, 5, 7, 8], table: { _ in [0, 0, 0, 0] })
            #expect(looks(caller) == .init(regularHits: 3, viralHits: 2, absent: 3))
            // The users of a viral entity may be a number that the truth alone knows.
            _ = try caller.counts([1, 2, 3, 6], RX_COUNT_USERS, table: { _ in [0] })
            #expect(looks(caller) == .init(regularHits: 1, viralHits: 1, viralMisses: 1, absent: 1))
        }

        @Test func whatIsThereAndDoesNotAnswerIsAMissOfItsTier() async throws {
            let (caller, installer) = try await make()
            try installer.install(1, counts: [1, 0, 0, 0], users: 1)
            try installer.redis.command(
                "HSET", String(decoding: try installer.key(1, KeySpace.countsSuffix), as: UTF8.self), "Laugh", "x")
            _ = looks(caller)
            _ = try caller.counts([1], table: { _ in [1, 0, 0, 0] })
            #expect(looks(caller) == .init(regularMisses: 1))
        }

        @Test func anEntityThatIsInstalledMeanwhileIsAHitAndNoMissBefore() async throws {
            let (caller, installer) = try await make()
            caller.settings.fillWait = 60_000
            _ = try caller.counts([1, 2], table: { _ in [0, 0, 0, 0] })
            _ = looks(caller)
            var waits = 0
            caller.whileWaiting = {
                waits += 1
                if waits == 12 { try? installer.install(1, .viral, counts: [5, 0, 0, 0], users: 5) }
                if waits == 18 { try? installer.install(2, counts: [5, 0, 0, 0], users: 5) }
            }
            _ = try caller.counts([1, 2], table: { _ in [] })
            #expect(looks(caller) == .init(regularHits: 1, viralHits: 1))
        }

        @Test func pagesOfReactorsAreLooksAtOneEntity() async throws {
            let (caller, installer) = try await make()
            let reactors = (1...10).reversed().map { reactor($0, $0, Int32($0 % 3) + 1) }
            try installer.install(1, counts: [0, 0, 0, 0], users: 10, reactors: reactors)
            try installer.install(
                2, .viral, counts: [0, 0, 0, 0], users: 20, floor: reactors.last?.position, reactors: reactors)
            _ = looks(caller)
            // Cut short, and then read whole: one look.
            _ = try caller.reactors(1, mask: 2, limit: 3)
            _ = try caller.reactors(1, limit: 100)
            _ = try caller.reactors(2, limit: 10)
            #expect(looks(caller) == .init(regularHits: 2, viralHits: 1))
            // There is nobody to ask.
            for (entity, what) in [(1, "list"), (2, "floor"), (3, "absent")] as [(Int64, String)] {
                if what == "list" {
                    _ = try installer.redis.command(
                        bytes: [Array("DEL".utf8), installer.key(1, KeySpace.reactionsSuffix)])
                }
                _ = try? caller.reactors(entity, limit: 100)
            }
            #expect(looks(caller) == .init(regularMisses: 1, viralMisses: 1, absent: 1))
        }

        @Test(arguments: Engine.allCases) func queriesToClickHouseAreFallbacksIfRedisWasAskedBefore(
            engine: Engine
        ) async throws {
            let (caller, installer) = try await make()
            let server = try await engine.server
            let database = try server.createDatabase()
            try server.query(
                """
                CREATE TABLE reactionsByEntity (entityType String, entityId Int64, userId Int64, setMask Int32, clearMask Int32,
                createdAt DateTime('UTC'), version Int64, batch Int64, part Int32)
                ENGINE = ReplacingMergeTree PARTITION BY tuple() ORDER BY (entityType, entityId, version, userId)
                """, database: database)
            try server.query(
                """
                CREATE TABLE reactionDeltas (entityType String, entityId Int64, metricType String, delta Int64, batch Int64, part Int32)
                ENGINE = ReplacingMergeTree PARTITION BY tuple() ORDER BY (entityType, entityId, metricType, batch, part)
                """, database: database)
            caller.settings.clickHouse = server.url
            caller.settings.clickHouseDatabase = database
            caller.settings.clickHouseUser = server.user
            caller.settings.clickHousePassword = server.password
            try installer.install(1, counts: [1, 0, 0, 0], users: 1)
            _ = looks(caller)
            _ = try caller.counts([1, 2, 3])
            #expect(looks(caller) == .init(regularHits: 1, absent: 2, fallbacks: 1))
            _ = try caller.reactors(4, limit: 10)
            #expect(looks(caller) == .init(absent: 1, fallbacks: 1))
            // Redis cannot know it, and is not asked.
            _ = try caller.counts([1, 2], RX_COUNT_EVER_REACTED)
            #expect(looks(caller) == .init())
        }

        @Test func whatCouldNotBeAskedIsNotCounted() async throws {
            let server = try await RedisServer.start()
            var settings = Caller.Settings()
            settings.redis = "unix://\(server.socketPath)"
            let caller = Caller(settings)
            #expect(try caller.status(1).tier == 0)
            _ = try caller.counts([1], table: { _ in [0, 0, 0, 0] })
            #expect(looks(caller) == .init(absent: 1))
            server.stop()
            #expect(throws: Caller.Failure.self) { try caller.counts([1]) }
            #expect(looks(caller) == .init())
        }
    }
}
