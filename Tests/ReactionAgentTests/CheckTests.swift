import AgentTestSupport
import Foundation
import Pipeline
import RedisStore
import TestSupport
import Testing

@testable import PostgresSource
@testable import ReactionAgent

@Suite struct CheckTests {
    @Test(arguments: [("0.1.0", true), ("0.0.9", true), ("0.2.0", false), ("1.0", false), ("x", false)])
    func onlyAKnownExtensionIsAccepted(version: String, isAccepted: Bool) {
        #expect(((try? IncompatibleExtension.check(version)) != nil) == isAccepted)
    }

    @Test func aMissingExtensionIsAConfigurationError() {
        #expect(throws: IncompatibleExtension.self) { try IncompatibleExtension.check(nil) }
        #expect(ExitCode(IncompatibleExtension(version: nil)) == .configuration)
        #expect(ExitCode(PostgresError(disposition: .reconnect, message: "")) == .unavailable)
        #expect(ExitCode(SinkError(disposition: .retry, message: "")) == .unavailable)
    }

    @Test(arguments: [
        ("08006", ExitCode.unavailable), ("57P01", .unavailable), ("28P01", .configuration), ("3D000", .configuration),
        ("42501", .configuration), ("42P07", .failure), ("42704", .failure), ("40001", .failure), ("55P03", .failure),
        ("55000", .failure), ("2BP01", .failure), ("53100", .failure), ("XX000", .failure),
    ])
    func whatPostgreSQLRefusesIsAFailureOfTheCommand(sqlState: String, code: ExitCode) {
        let error = PostgresError(
            disposition: PostgresError.disposition(sqlState: sqlState), sqlState: sqlState, message: "")
        #expect(ExitCode(error) == code)
    }

    @Test func aRefusalIsToldWithItsDetailAndHint() {
        var error = PostgresError(disposition: .stop, sqlState: "55000", message: "not ready (a: 1.\nb: 2.)")
        error.detail = "a: 1.\nb: 2."
        error.hint = "Wait."
        #expect(ExitCode.explanation(of: error) == "not ready\ndetail: a: 1.\n        b: 2.\nhint: Wait.")
        #expect(ExitCode.explanation(of: PostgresError(disposition: .stop, message: "a standby")) == "a standby")
    }

    @Test func redisIsCheckedForVersionAndEviction() async throws {
        let server = try await RedisServer.start(configuration: ["maxmemory-policy allkeys-lru"])
        let settings = RedisSettings(
            endpoint: try RedisEndpoint("unix://\(server.socketPath)"), connectTimeout: .seconds(2),
            timeout: .seconds(2))
        let (checks, skew) = await Doctor.redis(settings)
        #expect(checks.map(\.ok) == [true, false])
        #expect(abs(skew ?? .max) < 5_000_000)
        server.kill()
        #expect(await Doctor.redis(settings).checks.map(\.ok) == [false])
    }

    @Test func clocksThatDifferAreTold() {
        #expect(Doctor.clocks([("a", 100), ("b", nil), ("c", -1_900_000)]).ok)
        #expect(!Doctor.clocks([("a", 1_100_000), ("b", -1_100_000)]).ok)
    }

    @Test func postgresWithoutTheExtensionIsTold() async throws {
        let database = try await OutboxDatabase.make()
        let (checks, _) = await Doctor.postgres(database.source())
        #expect(checks.map(\.ok) == [true, false])
    }

    @Test func theStatusShowsWhatIsLeftToDo() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        for user in 0..<3 { try writer.writeEvent(user: Int64(user), entity: 1, set: 1) }
        try writer.execute(
            "INSERT INTO reactions.write_backs (entity_type, keys_done, waits_for) VALUES ('Image', 7, NULL), ('Post', 0, 'Image')"
        )
        let source = database.source()
        try await source.open()
        let report = try await source.report()
        #expect(report.backlogEvents == 3)
        #expect(report.leaderPID == nil)
        #expect(report.types.map(\.entityType) == ["Image", "Post"])
        #expect(report.table.contains("none: nothing is mirrored"))
        #expect(report.table.contains("epoch 0; rolling back: 7 of ? reactions written back"))
        #expect(report.table.contains("epoch 0; rolling back: the one of Image comes first"))
        #expect(report.table.contains("0 batches, 0 of them not in ClickHouse"))
        #expect(report.table.contains("not looked through yet"))
        #expect(report.table.contains("unknown: preload the extension"))
        try writer.execute(
            """
            INSERT INTO reactions._batch (batch, snapshot, sequence_seen, chunk_events, events, checksum, confirmed_at)
            VALUES (1, '1:1:', 1, 1, 1, 1, now()), (2, '1:1:', 1, 1, 1, 1, NULL);
            INSERT INTO reactions.stats VALUES ('reads', 'counter', 9, true), ('hits', 'counter', 3, true), ('misses', 'counter', 1, true),
                ('regular_entity_hits', 'counter', 1, true), ('absent_entity_misses', 'counter', 2, true),
                ('regular_entities', 'gauge', 12, true), ('viral_entities', 'gauge', 3, true), ('entity_bytes', 'gauge', 20480, true),
                ('user_map_bytes', 'gauge', NULL, true)
            """)
        let later = try await source.report()
        #expect(later.table.contains("2 batches, 1 of them not in ClickHouse"))
        #expect(later.table.contains("12 regular and 3 viral entities, 20 kB; maps of users, unknown size"))
        #expect(later.table.contains("reactions of users 75.0 %, entities 33.3 %"))
        try writer.execute("UPDATE reactions.stats SET shared = false WHERE kind = 'counter'")
        #expect(try await source.report().table.contains("unknown: preload the extension"))
        let copy = try JSONDecoder().decode(MirrorReport.self, from: try JSONEncoder().encode(report))
        #expect(copy == report)
    }

    @Test func metricsAreInPrometheusFormat() throws {
        let metrics = Metrics()
        metrics.update { $0.lag.add(microseconds: 1500) }
        let text = metrics.text()
        #expect(text.contains("reactiond_mirror_lag_seconds_bucket{le=\"0.002\"} 1\n"))
        #expect(text.contains("reactiond_mirror_lag_seconds_bucket{le=\"+Inf\"} 1\n"))
        let names = text.split(separator: "\n").filter { $0.hasPrefix("# TYPE") }.map { $0.split(separator: " ")[2] }
        #expect(names.allSatisfy { $0.hasPrefix("reactiond_") })
        #expect(Set(names).count == names.count)
    }
}
