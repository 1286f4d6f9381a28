import CReactionsBoundary
import ClickHouseStore
import ReactionModel
import RedisStore
import TestSupport
import Testing

extension Boundary {
    /// Entities of which ClickHouse knows what Redis does not.
    @Suite struct EntityWarehouse {
        struct Site {
            let caller: Caller
            var installer: Installer
            let server: any ClickHouseEndpoint
            let database: String

            /// One event, as the agent mirrors it. Users who set nothing have cleared.
            func add(
                _ version: Int64, _ user: Int64, entity: Int64 = 1, set: Int32 = 0, clear: Int32 = 0, batch: Int64 = 1
            )
                throws
            {
                try add([(version, user, entity, set, clear, batch)])
            }

            func add(_ events: [(version: Int64, user: Int64, entity: Int64, set: Int32, clear: Int32, batch: Int64)])
                throws
            {
                func time(_ version: Int64) -> Int64 { 1_767_225_600 + version }
                let events = events.map { event in
                    """
                    ('Image', \(event.entity), \(event.user), \(event.set), \(event.clear), \(time(event.version)), \
                    \(event.version), \(event.batch), 0)
                    """
                }
                let text = events.joined(separator: ",")
                try server.query("INSERT INTO reactionsByEntity VALUES \(text)", database: database)
                for (name, flag) in [("Like", 1), ("Heart", 2), ("Laugh", 4), ("Cry", 8)] {
                    try server.query(
                        """
                        INSERT INTO entityMetricEvents SELECT entityType, entityId, userId, 'Reaction\(name)', \
                        toInt8(if(bitAnd(setMask, \(flag)) != 0, 1, -1)), createdAt, version, batch, part \
                        FROM reactionsByEntity WHERE bitAnd(bitOr(setMask, clearMask), \(flag)) != 0
                        """, database: database)
                    try server.query(
                        """
                        INSERT INTO reactionDeltas SELECT entityType, entityId, 'Reaction\(name)', \
                        toInt64(sum(if(bitAnd(setMask, \(flag)) != 0, 1, -1))), batch, part FROM (SELECT DISTINCT * FROM reactionsByEntity) \
                        WHERE bitAnd(bitOr(setMask, clearMask), \(flag)) != 0 GROUP BY entityType, entityId, batch, part
                        """, database: database)
                }
            }
        }

        static func site(_ engine: Engine) async throws -> Site {
            let server = try await engine.server
            let (caller, redis, prefix) = try await Boundary.caller()
            let database = try server.createDatabase()
            for statement in [
                """
                CREATE TABLE reactionsByEntity (entityType String, entityId Int64, userId Int64, setMask Int32, clearMask Int32,
                createdAt DateTime('UTC'), version Int64, batch Int64, part Int32)
                ENGINE = ReplacingMergeTree PARTITION BY tuple() ORDER BY (entityType, entityId, version, userId)
                """,
                """
                CREATE TABLE reactionDeltas (entityType String, entityId Int64, metricType String, delta Int64, batch Int64, part Int32)
                ENGINE = ReplacingMergeTree PARTITION BY tuple() ORDER BY (entityType, entityId, metricType, batch, part)
                """,
                """
                CREATE TABLE entityMetricEvents (entityType String, entityId Int64, userId Int64, metricType String, metricValue Int8,
                createdAt DateTime('UTC'), version Int64, batch Int64, part Int32)
                ENGINE = ReplacingMergeTree PARTITION BY tuple() ORDER BY (entityType, userId, entityId, metricType, version)
                """,
            ] { try server.query(statement, database: database) }
            caller.settings.clickHouse = server.url
            caller.settings.clickHouseDatabase = database
            caller.settings.clickHouseUser = server.user
            caller.settings.clickHousePassword = server.password
            return Site(
                caller: caller, installer: Installer(redis: redis, prefix: prefix), server: server, database: database)
        }

        @Test(arguments: Engine.allCases) func numbersAreAsOfTheBatch(engine: Engine) async throws {
            let site = try await Self.site(engine)
            try site.add([
                (10, 1, 1, 3, 0, 1), (11, 2, 1, 1, 0, 1), (12, -3, 2, 8, 0, 1), (13, 1, 1, 0, 1, 2),
                (14, 2, 1, 0, 1, 2),
                (15, 4, 1, 4, 0, 3),
            ])
            let caller = site.caller
            #expect(try caller.counts([1, 2, 3], batch: 1).numbers == [[2, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
            #expect(try caller.counts([3, 1], batch: 2).numbers == [[0, 0, 0, 0], [0, 1, 0, 0]])
            #expect(try caller.counts([1, 2, 3], RX_COUNT_USERS, batch: 1).numbers == [[2], [1], [0]])
            #expect(try caller.counts([1, 2, 3], RX_COUNT_USERS, batch: 3).numbers == [[2], [1], [0]])
            _ = caller.takeCounters()
            #expect(
                try caller.counts([1, 2, 3], RX_COUNT_EVER_REACTED, batch: 3)
                    == .init(numbers: [[3], [1], [0]], tiers: "---", wanted: [[1, 2, 3]]))
            #expect(caller.takeCounters().redis_round_trips == 0)
        }

        @Test(arguments: Engine.allCases) func theEstimateOfMillionsIsWithinTwoPercent(engine: Engine) async throws {
            let site = try await Self.site(engine)
            try site.server.query(
                """
                INSERT INTO reactionsByEntity SELECT 'Image', 1, toInt64(number % 300000), toInt32(number < 300000), \
                toInt32(number >= 300000), toDateTime(0, 'UTC'), toInt64(number), 1, 0 FROM numbers(600000)
                """, database: site.database)
            let estimate = try site.caller.counts([1], RX_COUNT_EVER_REACTED).numbers[0][0]
            #expect(abs(estimate - 300_000) < 6_000)
            #expect(try site.caller.counts([1], RX_COUNT_USERS).numbers == [[0]])
            #expect(try site.caller.reactors(1, limit: 10).reactors == [])
        }

        /// Users who have moved to the front, who are gone and who came again; and many more events than users.
        @Test(arguments: Engine.allCases, [1, 7, 100] as [Int32])
        func pagesOfClickHouseTellEverybodyOnce(engine: Engine, size: Int32) async throws {
            let site = try await Self.site(engine)
            var events: [(version: Int64, user: Int64, entity: Int64, set: Int32, clear: Int32, batch: Int64)] = []
            for user in 1...40 as ClosedRange<Int64> { events.append((user, user, 1, user % 5 == 0 ? 9 : 1, 0, 1)) }
            for user in 5...12 as ClosedRange<Int64> { events.append((user + 50, user, 1, 0, 1, 2)) }
            for user in 9...16 as ClosedRange<Int64> { events.append((user + 100, user, 1, 2, 0, 2)) }
            for turn in 1...300 as ClosedRange<Int64> {
                events.append((turn + 200, 77, 1, turn % 2 == 1 ? 4 : 0, turn % 2 == 1 ? 0 : 4, 3))
            }
            events.append((900, 99, 1, 1, 0, 8))
            try site.add(events)
            var state: [Int64: Reactor] = [:]
            for event in events where event.batch <= 7 {
                let flags = (state[event.user]?.flags ?? 0) & ~event.clear | event.set
                state[event.user] = reactor(event.version, event.user, flags)
            }
            let everybody = state.values.filter { $0.flags != 0 }.sorted { $0.position > $1.position }
            let pages = try site.caller.pages(1, of: size)
            #expect(pages.flatMap(\.reactors) == everybody)
            #expect(pages.allSatisfy { $0.seen.batch.rawValue == 7 })
            for mask in [2, 4, 8] as [Int32] {
                #expect(
                    try site.caller.pages(1, mask: mask, of: size).flatMap(\.reactors)
                        == everybody.filter { $0.flags & mask != 0 })
            }
        }

        /// The newest events are of users who are not asked for, more of them than are looked through.
        @Test(arguments: Engine.allCases) func whoIsRareIsFoundBehindEverybodyElse(engine: Engine) async throws {
            let site = try await Self.site(engine)
            // 20,000 users like entity 1, all had laughed once, and three of the first still have other kinds; one user has liked and
            // unliked entity 2 all the while.
            func insert(_ entity: Int, _ user: String, _ set: String, _ clear: String, at version: String) throws {
                try site.server.query(
                    """
                    INSERT INTO reactionsByEntity SELECT 'Image', \(entity), toInt64(\(user)), toInt32(\(set)), \
                    toInt32(\(clear)), toDateTime(1767225600, 'UTC'), toInt64(\(version)), 1, 0 FROM numbers(20000)
                    """, database: site.database)
            }
            try site.add([(1, 1, 1, 8, 0, 1), (2, 2, 1, 10, 0, 1), (3, 3, 1, 4, 0, 1), (4, 4, 2, 2, 0, 1)])
            try insert(1, "100 + number", "5", "0", at: "1000 + number")
            try insert(1, "100 + number", "0", "4", at: "30000 + number")
            try insert(2, "77", "number % 2 = 0", "number % 2 = 1", at: "1000 + number")
            try site.server.query(
                """
                INSERT INTO entityMetricEvents SELECT entityType, entityId, userId, arrayJoin(['ReactionLike', 'ReactionLaugh']) AS kind, \
                toInt8(if(bitAnd(setMask, kind = 'ReactionLike' ? 1 : 4) != 0, 1, -1)), createdAt, version, batch, part \
                FROM reactionsByEntity WHERE version >= 1000 AND bitAnd(bitOr(setMask, clearMask), kind = 'ReactionLike' ? 1 : 4) != 0
                """, database: site.database)
            func reactors(_ entity: Int64, _ mask: Int32) throws -> (rows: [Reactor], requests: Int64) {
                _ = site.caller.takeCounters()
                let page = try site.caller.reactors(entity, mask: mask, limit: 20)
                return (page.reactors, site.caller.takeCounters().clickhouse_requests)
            }
            // Four windows of two questions each, then who has ever had the kind, and these: of few their events, of many everybody's.
            #expect(try reactors(1, 8) == ([reactor(2, 2, 10), reactor(1, 1, 8)], 10))
            #expect(try reactors(1, 4) == ([reactor(3, 3, 4)], 10))
            #expect(try reactors(2, 15) == ([reactor(4, 4, 2)], 9))
            #expect(try reactors(1, 1).rows.map(\.position.userID) == (20_080..<20_100).reversed())
            #expect(try reactors(1, 1).requests == 2)
        }

        @Test(arguments: Engine.allCases) func whereTheSampleEndsClickHouseGoesOn(engine: Engine) async throws {
            let site = try await Self.site(engine)
            try site.add((1...30).map { ($0, $0, 1, $0 % 3 == 0 ? 2 : 1, 0, $0 > 20 ? 2 : 1) })
            let everybody = (1...30).reversed().map { reactor($0, $0, $0 % 3 == 0 ? 2 : 1) }
            try site.installer.install(
                1, .viral, counts: [20, 10, 0, 0], users: 30, floor: everybody[9].position,
                reactors: Array(everybody.prefix(10)))
            for size in [1, 4, 10, 11, 100] as [Int32] {
                let pages = try site.caller.pages(1, of: size)
                #expect(pages.flatMap(\.reactors) == everybody)
                #expect(pages.allSatisfy { $0.wanted == [] || $0.wanted == [[]] })
                #expect(
                    try site.caller.pages(1, mask: 2, of: size).flatMap(\.reactors)
                        == everybody.filter { $0.flags == 2 })
            }
            // What goes on is no miss.
            #expect(try site.installer.wanted(1) == nil)
            _ = site.caller.takeCounters()
            #expect(try site.caller.reactors(1, limit: 10).reactors == Array(everybody.prefix(10)))
            #expect(site.caller.takeCounters().clickhouse_requests == 0)
        }

        /// A user moves to the front between two pages, where the reader has been: the list that the second page finds is the older one.
        @Test(arguments: Engine.allCases) func aPageIsNeverOlderThanTheOneBefore(engine: Engine) async throws {
            var site = try await Self.site(engine)
            try site.add((1...6).map { ($0, $0, 1, 1, 0, 1) } + [(20, 2, 1, 2, 0, 8)])
            let before = (1...6).reversed().map { reactor($0, $0, 1) }
            site.installer = Installer(
                redis: site.installer.redis, prefix: site.installer.prefix,
                counted: CountedChunk(batch: BatchNumber(rawValue: 8), part: 3))
            let after = [reactor(20, 2, 3)] + before.filter { $0.position.userID != 2 }
            try site.installer.install(1, counts: [6, 1, 0, 0], users: 6, reactors: after)
            let first = try site.caller.reactors(1, limit: 3)
            #expect(first.reactors == Array(after.prefix(3)))
            // Redis comes back as it was before, and this server knows batch 7 only.
            let old = Installer(redis: site.installer.redis, prefix: site.installer.prefix)
            try old.install(1, counts: [6, 0, 0, 0], users: 6, reactors: before)
            let second = try site.caller.reactors(1, limit: 10, after: first, batch: 7)
            #expect(second.reactors == Array(after.dropFirst(3)))
            #expect(second.wanted == [[]])
        }
    }
}
