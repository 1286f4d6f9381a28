import Foundation
import RedisStore
import TestSupport
import Testing

@testable import ReactionAgent

@Suite("Reconcile in trouble", .serialized) struct ReconcileTroubleTests {
    @Test("a hundred thousand entities are scanned while others write, and no command holds Redis up")
    func scan() async throws {
        let redis = try await TestSupport.RedisServer.start(configuration: [
            "slowlog-log-slower-than 10000", "slowlog-max-len 1000",
        ])
        let site = try await ReconcileSite.make(redis: redis)
        try site.buildMany(100_000)
        try site.redis("HINCRBY", site.key(77_777), "Like", "1")
        try redis.command("SLOWLOG", "RESET")
        let isWriting = Flag(true)
        let socket = redis.socketPath
        let writing = Task.detached {
            await onThread {
                let writer = try? TestSupport.RedisConnection(socketPath: socket)
                var written = 0
                while isWriting.value {
                    _ = try? writer?.command("SET", "other:\(written % 1000)", "\(written)")
                    written += 1
                }
                return written
            }
        }
        let run = await site.reconcile("--set", "reconcile.keys_per_second=1000000")
        isWriting.value = false
        #expect(await writing.value > 1_000)
        #expect(run.hasEndedWell && run.output.contains("100 %"), "\(run.output)")
        #expect(try site.count("regular") >= 99_999 && site.findings() == [["drift", "77777", "t"]])
        // Milliseconds at most: what the machine takes from Redis for others is in the averages, too, but hardly.
        #expect(try site.averageMicroseconds("evalsha") < 250)
        #expect(try site.averageMicroseconds("scan") < 4_000)
        let slow = try redis.command("SLOWLOG", "GET", "1000").array ?? []
        #expect(slow.count < 100, "of more than 100,000 commands, for example \(slow.first.map { "\($0)" } ?? "")")
    }

    @Test("killed in the middle, or left by Redis or ClickHouse, it says so and the next run does it all")
    func broken() async throws {
        let redis = try await TestSupport.RedisServer.start()
        let clickHouse = try await ClickHouseServer.start()
        let site = try await ReconcileSite.make(redis: redis, clickHouse: clickHouse)
        try site.buildMany(4_000, likes: 1)
        let slowly = [
            "--set", "reconcile.keys_per_second=1000", "--set", "clickhouse.timeout=1s", "--max-repairs", "100",
        ]
        func inItsMiddle(_ run: Int) async throws {
            try await eventually("run \(run) is in its middle") {
                try site.session.value(
                    "SELECT scanned > 0 AND scanned < expected FROM reactions.reconcile_run WHERE reconcile_run_id = \(run)"
                ) == "t"
            }
        }
        let stack = site.stack
        let killed = try stack.start("reconcile", slowly)
        try await inItsMiddle(1)
        killed.stop(SIGKILL)
        #expect(
            try site.session.value("SELECT finished_at IS NULL AND error IS NULL FROM reactions.reconcile_run") == "t")

        let unavailable = "status \(ExitCode.unavailable.rawValue << 8)"
        async let withoutClickHouse = ReconcileSite.reconcile(stack, slowly)
        try await inItsMiddle(2)
        clickHouse.kill()
        let leftByClickHouse = await withoutClickHouse.output
        #expect(leftByClickHouse.contains(unavailable), "\(leftByClickHouse)")
        try await clickHouse.restart()

        async let withoutRedis = ReconcileSite.reconcile(stack, slowly)
        try await inItsMiddle(3)
        redis.kill()
        let leftByRedis = await withoutRedis.output
        #expect(leftByRedis.contains(unavailable), "\(leftByRedis)")
        #expect(
            try site.session.value(
                "SELECT count(*) FROM reactions.reconcile_run WHERE error IS NOT NULL AND finished_at IS NULL") == "2")
        #expect(try site.session.value("SELECT ok FROM reactions.doctor() WHERE \"check\" = 'reconcile'") == "f")

        try await redis.restart()
        let again = try await ReconcileSite(stack: site.stack, session: site.session)
        try again.buildMany(200, likes: 1)
        let whole = await again.reconcile(["--set", "clickhouse.timeout=30s"])
        #expect(whole.hasEndedWell, "\(whole.output)")
        #expect(try again.session.query("SELECT found, repaired FROM reactions.reconcile_status") == [["200", "200"]])
    }

    @Test("the leading agent reconciles on its schedule, and its metrics tell of it")
    func schedule() async throws {
        let site = try await ReconcileSite.make()
        try site.build(1, likes: 1)
        let port = try FreePort.next()
        let agent = try site.stack.startAgent(
            Stack.withoutMatches + ["--set", "reconcile.interval=1s", "--set", "agent.http_port=\(port)"])
        defer { agent.stop(15) }
        try await eventually("a run has repaired it") {
            try site.session.value(
                "SELECT count(*) FROM reactions.reconcile_run WHERE repaired = 1 AND finished_at IS NOT NULL") == "1"
        }
        try await eventually("the metrics tell of a run") {
            let text = try HTTP.request("http://127.0.0.1:\(port)/metrics").text
            return text.contains("reactiond_reconcile_last_run_timestamp_seconds")
                && text.contains("reactiond_reconcile_duration_seconds")
        }
    }
}

private final class Flag: Sendable {
    private let lock = NSLock()
    nonisolated(unsafe) private var stored: Bool
    init(_ value: Bool) { stored = value }
    var value: Bool {
        get { lock.withLock { stored } }
        set { lock.withLock { stored = newValue } }
    }
}
