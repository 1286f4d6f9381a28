import Foundation
import Pipeline
import PostgresSource
import ReactionModel
import RedisStore
import TestSupport
import Testing

@testable import ReactionAgent

@Suite("Reconcile in trouble", .serialized) struct ReconcileTroubleTests {
    @Test("three hundred thousand keys are scanned while others write, in memory of a fixed size and by short commands")
    func scan() async throws {
        let redis = try await TestSupport.RedisServer.start(configuration: ["enable-debug-command local"])
        let site = try await ReconcileSite.make(redis: redis)
        try site.buildMany(30_000)
        try redis.command("DEBUG", "POPULATE", "240000", "\(site.stack.prefix)others", "10")
        try site.redis("HINCRBY", site.key(7_777), "Like", "1")
        try redis.command("CONFIG", "RESETSTAT")
        let isWriting = OnceSignal()
        let socket = redis.socketPath
        let writing = Task.detached {
            await onThread {
                let writer = try? TestSupport.RedisConnection(socketPath: socket)
                var written = 0
                while !isWriting.isRaised {
                    _ = try? writer?.command("SET", "other:\(written % 1000)", "\(written)")
                    written += 1
                }
                return written
            }
        }
        let command = try site.stack.start("reconcile", ["--set", "reconcile.keys_per_second=1000000"])
        defer { command.stop(SIGKILL) }
        var peak = 0
        try await eventually(within: .seconds(240), "the run has ended") {
            peak = max(peak, Self.peakKilobytes(of: command))
            return try site.session.value("SELECT finished_at IS NOT NULL FROM reactions.reconcile_run") == "t"
        }
        isWriting.raise()
        #expect(await writing.value > 1_000)
        #expect(try site.findings() == [["drift", "7777", "t"]])
        #expect(try site.count("regular") >= 29_999 && site.count("unknown") >= 240_000)
        // What a run of a few keys takes, and a step's, not what Redis has.
        #expect((1..<100 << 10).contains(peak), "\(peak) kB")
        // By what is asked at a time: steps of a thousand keys, an entity in each call.
        #expect(try site.calls("scan") >= 300 && site.calls("evalsha") >= 30_000)
        for command in ["keys", "del", "sort"] { #expect(try site.calls(command) == 0) }
        // By how long Redis is at it. What else the machine does makes some of the calls longer, but not one in ten.
        #expect(try site.share(of: "evalsha", within: 1_100) > 0.9)
        #expect(try site.share(of: "scan", within: 4_400) > 0.9)
    }

    /// A call that is long by itself is so every time.
    @Test("the largest entities that are read take Redis a few milliseconds each, and larger ones are not read")
    func largest() async throws {
        let redis = try await TestSupport.RedisServer.start(configuration: [
            "slowlog-log-slower-than 0", "slowlog-max-len 100000",
        ])
        let site = try await ReconcileSite.make(redis: redis)
        let (scan, type) = try await site.scan()
        try site.build(1, likes: 10_000)
        try site.build(2, likes: 52_000)
        try site.build(3, likes: 60_000)
        for first in stride(from: 0, to: 100_000, by: 1_000) {
            try site.redis("HSET", [site.key(4)] + (first..<first + 1_000).flatMap { ["f\($0)", "1"] })
        }
        for (id, isRead) in [(1, true), (2, true), (3, false), (4, false)] as [(Int64, Bool)] {
            let entity = EntityAddress(typeID: type.typeID, id: id)
            for isWhole in [false, true] {
                try redis.command("SLOWLOG", "RESET")
                for _ in 1...20 {
                    let look = try #require(try await scan.look(at: [entity], isWhole: isWhole)[entity])
                    #expect((look.reactions.counts != nil) == isRead)
                    #expect(
                        EntityCondition(look, of: type)
                            == (id == 4 ? .faulty(.wrongType, "reaction_counts") : .kept(.regular)))
                }
                let log = try redis.command("SLOWLOG", "GET", "-1").array ?? []
                let durations = log.compactMap { entry -> Int64? in
                    guard let fields = entry.array, fields.count > 3, fields[3].array?.first?.string == "EVALSHA" else {
                        return nil
                    }
                    return fields[2].integer
                }
                #expect(durations.count >= 20)
                #expect(durations.min() ?? .max < 8_000)
            }
        }
    }

    private static func peakKilobytes(of process: ServerProcess) -> Int {
        let status = (try? String(contentsOfFile: "/proc/\(process.pid)/status", encoding: .utf8)) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
        return line?.split(whereSeparator: { !$0.isNumber }).first.flatMap { Int($0) } ?? 0
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
