import CReactionsBoundary
import TestSupport
import Testing

/// The ClickHouse servers at hand.
enum Engine: String, CaseIterable, Sendable {
    case debian = "18.16"
    case current = "26.9"

    var server: any ClickHouseEndpoint {
        get async throws {
            switch self {
            case .debian: try await ClickHouseServer.shared.value
            case .current: try await ChdbServer.shared.value
            }
        }
    }
}

extension Boundary {
    /// ClickHouse under the outbox as the truth.
    @Suite struct Warehouse {
        private func code(_ code: rx_error_code) -> Int32 { Int32(bitPattern: code.rawValue) }

        private typealias Row = (
            type: String, entity: Int64, user: Int64, kind: String, value: Int, version: Int64
        )

        /// A database and key prefix of one's own on everyone's servers.
        private func caller(
            _ server: any ClickHouseEndpoint, _ rows: [Row]
        ) async throws -> Caller {
            let prefix = uniqueName() + ":"
            let database = try server.createDatabase()
            try server.query(
                """
                CREATE TABLE entityMetricEvents (entityType String, entityId Int64, userId Int64, metricType String,
                metricValue Int8, createdAt DateTime, version UInt64, batch UInt64)
                ENGINE = ReplacingMergeTree() PARTITION BY tuple() ORDER BY (entityType, userId, entityId, metricType, version)
                """, database: database)
            for row in rows {
                try server.query(
                    """
                    INSERT INTO entityMetricEvents VALUES ('\(row.type.replacing("'", with: "\\'"))', \(row.entity), \
                    \(row.user), 'Reaction\(row.kind)', \(row.value), 0, \(row.version), 1)
                    """, database: database)
            }
            var settings = Caller.Settings()
            settings.redis = "unix://\(try await RedisServer.shared.value.socketPath)"
            settings.prefix = prefix
            settings.clickHouse = server.url.replacing("127.0.0.1", with: "localhost")
            settings.clickHouseDatabase = database
            settings.clickHouseUser = server.user
            settings.clickHousePassword = server.password
            return Caller(settings)
        }

        @Test(arguments: Engine.allCases) func theNewerOfClickHouseAndOutboxDecides(engine: Engine) async throws {
            let server = try await engine.server
            let caller = try await caller(
                server,
                [
                    ("Image", 7, 1, "Like", 1, 3), ("Image", 7, 1, "Heart", 1, 4), ("Image", 7, 1, "Heart", -1, 6),
                    ("Image", 8, 1, "Cry", 1, 5), ("Image", 9, 1, "Like", -1, 40), ("Image", 7, 2, "Laugh", 1, 5),
                    ("Post", 7, 1, "Laugh", 1, 5), ("Image", 11, 1, "Dislike", 1, 5),
                ])
            caller.truth = .init(
                outbox: [
                    event(8, 20, set: 1, clear: 8), event(9, 30, set: 1), event(10, 31, set: 2), event(7, 6, clear: 2),
                ],
                floor: 10)
            let expected: [Int64: Int32] = [7: 1, 8: 1, 9: 0, 10: 2, 11: 0]
            #expect(try caller.read([7, 8, 9, 10, 11], mayFill: false, truth: RX_TRUTH_CLICKHOUSE).flags == expected)
            let filled = try caller.read([7, 8, 9, 10, 11], truth: RX_TRUTH_CLICKHOUSE)
            #expect(filled == .init(flags: expected, isComplete: true, wanted: [nil]))
            #expect(try caller.read(Array(expected.keys)) == .init(flags: expected, isComplete: true, wanted: []))
            #expect(try caller.read(nil).flags == [7: 1, 8: 1, 10: 2])
            #expect(caller.takeCounters().clickhouse_requests == 2)
        }

        @Test(arguments: Engine.allCases) func aUserOverTheLimitIsAskedForByIDsWithoutAskingTheOutboxAgain(
            engine: Engine
        ) async throws {
            let server = try await engine.server
            let caller = try await caller(server, (1...6).map { ("Image", $0, 1, "Like", 1, $0) })
            caller.limit = 5
            #expect(
                try caller.read([2, 9], truth: RX_TRUTH_CLICKHOUSE)
                    == .init(flags: [2: 1, 9: 0], isComplete: true, wanted: [nil]))
            #expect(try caller.read(nil, truth: RX_TRUTH_CLICKHOUSE).isComplete == false)
        }

        /// The server does not see that the reader has gone: it would read on for ever.
        @Test func whatNobodyWaitsForAnyMoreTheServerGivesUp() async throws {
            let server = try await ClickHouseServer.shared.value
            let caller = try await caller(server, [])
            let database = caller.settings.clickHouseDatabase
            try server.query("DROP TABLE entityMetricEvents", database: database)
            try server.query(
                """
                CREATE VIEW entityMetricEvents AS SELECT 'Endless' AS entityType, toInt64(number) AS entityId, toInt64(-1) AS userId,
                'ReactionLike' AS metricType, toInt8(1) AS metricValue, toDateTime(0) AS createdAt, number AS version,
                toUInt64(1) AS batch FROM system.numbers
                """, database: database)
            caller.typeName = "Endless"
            caller.settings.clickHouseTimeout = 2_500
            @Sendable func running() throws -> String {
                try server.query("SELECT query FROM system.processes WHERE query LIKE concat('%End', 'less%')")
            }
            async let isReading: Void = eventually("the server reads") { try !running().isEmpty }
            let failure = try #require(throws: Caller.Failure.self) { try caller.read([7], truth: RX_TRUTH_CLICKHOUSE) }
            try await isReading
            #expect(failure.code == code(RX_ERROR_CLICKHOUSE_UNREACHABLE))
            try await eventually("the server reads no more") { try running().isEmpty }
        }

        @Test(arguments: Engine.allCases) func moreIDsThanOneQueryHolds(engine: Engine) async throws {
            let server = try await engine.server
            let caller = try await caller(server, [("Image", 20_000, 1, "Like", 1, 1), ("Image", 1, 1, "Cry", 1, 1)])
            let ids = Array(1...25_000 as ClosedRange<Int64>)
            let answer = try caller.read(ids, mayFill: false, skipsRedis: true, truth: RX_TRUTH_CLICKHOUSE)
            #expect(answer.flags.filter { $0.value != 0 } == [1: 8, 20_000: 1])
            #expect(caller.takeCounters().clickhouse_requests == 3)
        }

        @Test(arguments: Engine.allCases) func namesAreQuoted(engine: Engine) async throws {
            let server = try await engine.server
            let caller = try await caller(server, [("It's", 7, 1, "Like", 1, 3)])
            caller.typeName = "It's"
            #expect(try caller.read([7], truth: RX_TRUTH_CLICKHOUSE).flags == [7: 1])
            caller.typeName = "x' OR '1' = '1"
            #expect(try caller.read([7], skipsRedis: true, truth: RX_TRUTH_CLICKHOUSE).flags == [7: 0])
            caller.typeName = "\\"
            #expect(try caller.read([7], skipsRedis: true, truth: RX_TRUTH_CLICKHOUSE).flags == [7: 0])
        }

        @Test(arguments: Engine.allCases) func pagesAreInOrderAndUnderTheOutbox(engine: Engine) async throws {
            let server = try await engine.server
            var rows: [Row] = (1...9).map { ("Image", $0, 1, "Like", 1, 2) }
            rows.append(("Image", 3, 1, "Heart", 1, 3))
            rows.append(("Image", 4, 1, "Like", -1, 5))
            rows.append(("Image", 5, 1, "Cry", 1, 5))
            let caller = try await caller(server, rows)
            caller.truth = .init(
                outbox: [event(2, 20, clear: 1), event(6, 21, set: 2), event(12, 22, set: 1)], floor: 10)
            let pages = [
                try caller.page(mask: 1, after: 0, limit: 3), try caller.page(mask: 1, after: 5, limit: 4),
                try caller.page(mask: 1, after: 9, limit: 4), try caller.page(mask: 2, after: .min, limit: 10),
                try caller.page(mask: 8 | 2, after: 0, limit: 2), try caller.page(mask: 1 << 20, after: 0, limit: 2),
            ]
            #expect(
                pages.map(\.flags) == [
                    [1: 1, 3: 3, 5: 9], [6: 3, 7: 1, 8: 1, 9: 1], [12: 1], [3: 3, 6: 3], [3: 3, 5: 9], [:],
                ])
            #expect(pages[0].isComplete)
            #expect(pages[0].wanted == [nil])
        }

        @Test func oneConnectionIsKeptAndReplacedAfterARestart() async throws {
            let server = try await ClickHouseServer.start()
            let caller = try await caller(server, [("Image", 7, 1, "Like", 1, 3)])
            func read() throws -> [Int64: Int32] {
                try caller.read([7], skipsRedis: true, truth: RX_TRUTH_CLICKHOUSE).flags
            }
            #expect(try read() == [7: 1])
            try await server.restart()
            #expect(try read() == [7: 1])
            server.kill()
            let failure = try #require(throws: Caller.Failure.self) { try read() }
            #expect(failure.code == code(RX_ERROR_CLICKHOUSE_UNREACHABLE))
            #expect(caller.probe()["clickhouse_reachable"]?.isOK == false)
        }

        @Test func aHangingServerFailsAtTheDeadline() async throws {
            let server = try await ClickHouseServer.start()
            let caller = try await caller(server, [("Image", 7, 1, "Like", 1, 3)])
            caller.settings.clickHouseTimeout = 100
            server.pause()
            let failure = try #require(throws: Caller.Failure.self) { try caller.read([7], truth: RX_TRUTH_CLICKHOUSE) }
            #expect(failure.code == code(RX_ERROR_CLICKHOUSE_UNREACHABLE))
            let cancelled = caller.beginRead([7], skipsRedis: true, truth: RX_TRUTH_CLICKHOUSE)
            #expect(caller.step(cancelled).action == Int32(bitPattern: RX_WANT_TRUTH.rawValue))
            caller.give(cancelled)
            _ = rx_step(cancelled, 0)
            rx_end(cancelled)
            server.resume()
            caller.settings.clickHouseTimeout = 60_000
            try await eventually("a read succeeds") {
                (try? caller.read([7], truth: RX_TRUTH_CLICKHOUSE).flags) == [7: 1]
            }
        }

        @Test(arguments: Engine.allCases) func refusalsErrorsAndNonsenseAreToldApart(engine: Engine) async throws {
            let server = try await engine.server
            let caller = try await caller(server, [])
            func failure() throws -> Caller.Failure {
                try #require(throws: Caller.Failure.self) {
                    try caller.read([7], skipsRedis: true, truth: RX_TRUTH_CLICKHOUSE)
                }
            }
            let database = caller.settings.clickHouseDatabase
            try server.query("DROP TABLE entityMetricEvents", database: database)
            let missing = try failure()
            #expect(missing.code == code(RX_ERROR_CLICKHOUSE_FAILED))
            #expect(missing.detail.contains("code 60"))
            #expect(caller.probe()["clickhouse_tables"]?.isOK == false)
            #expect(caller.probe()["clickhouse_reachable"]?.detail.hasPrefix("ClickHouse \(engine.rawValue)") == true)

            caller.settings.clickHouseDatabase = "no_such_database"
            #expect(caller.probe()["clickhouse_reachable"]?.hint == "Run reactiond init-clickhouse.")
            #expect(try failure().hint == "Run reactiond init-clickhouse.")
            caller.settings.clickHouseDatabase = database

            caller.settings.clickHousePassword = "wrong"
            let refused = try failure()
            #expect(refused.code == code(RX_ERROR_CLICKHOUSE_REFUSED))
            #expect(!"\(refused)".contains("wrong"))

            caller.settings.clickHouse = "http://127.0.0.1:\(try await RedisServer.shared.value.port)"
            #expect(
                [RX_ERROR_CLICKHOUSE_NONSENSE, RX_ERROR_CLICKHOUSE_UNREACHABLE].map(code).contains(try failure().code))
            caller.settings.clickHouse = "http://nowhere.invalid"
            #expect(try failure().code == code(RX_ERROR_CLICKHOUSE_UNREACHABLE))
            caller.settings.clickHouse = ""
            #expect(try failure().code == code(RX_ERROR_NOT_CONFIGURED))
        }
    }
}
