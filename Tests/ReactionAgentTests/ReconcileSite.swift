import Foundation
import Pipeline
import PostgresSource
import ReactionModel
import RedisStore
import TestSupport

@testable import ReactionAgent

/// A native type whose events are in ClickHouse, and entities in Redis as the agent, or somebody else, may have left them.
struct ReconcileSite {
    let stack: Stack
    let session: TestSupport.PostgresConnection
    private let redis: ReactionAgent.RedisConnection
    let plain: TestSupport.RedisConnection
    let stamp: Stamp
    static let nonce = Array("00ff0123456789ab".utf8)

    static func make(
        redis: TestSupport.RedisServer? = nil, clickHouse: (any ClickHouseEndpoint)? = nil
    ) async throws -> ReconcileSite {
        let stack = try await Stack.make(redis: redis, clickHouse: clickHouse)
        let session = try stack.connect()
        try session.execute(
            """
            SELECT reactions.add_entity_type('Post', entity_key => 'post:<shard>:<entity>',
                user_map_key => 'user:<shard>:<user>:reactions')
            """)
        return try ReconcileSite(stack: stack, session: session)
    }

    /// With the Redis that runs now.
    init(stack: Stack, session: TestSupport.PostgresConnection) throws {
        self.stack = stack
        self.session = session
        redis = try RedisConnection(settings: Self.settings(stack))
        plain = try stack.redis.connect()
        let info = try plain.command("INFO", "server").string ?? ""
        let runID = info.split(whereSeparator: \.isNewline).first { $0.hasPrefix("run_id:") }?.dropFirst(7) ?? ""
        let place = try session.query(
            "SELECT c.system_identifier, c.timeline, t.epoch FROM reactions._cluster() c, reactions.entity_type t")[0]
        let numbers = place.map { Int64($0 ?? "") ?? 0 }
        stamp = Stamp(
            redisRunID: Array(runID.utf8), systemIdentifier: UInt64(bitPattern: numbers[0]),
            timeline: UInt32(truncatingIfNeeded: numbers[1]), epoch: numbers[2])
    }

    private static func settings(_ stack: Stack) -> RedisSettings {
        RedisSettings(
            address: .unix(path: stack.redis.socketPath), database: 0, connectTimeout: .seconds(2),
            timeout: .seconds(10))
    }

    var redisSettings: RedisSettings { Self.settings(stack) }

    /// Users 1 … `likes` like the entity.
    func like(_ entity: Int64, users likes: Int) throws {
        try session.execute(
            "SELECT reactions.react(g, \(entity), 'Like', 'Post') FROM generate_series(1, \(likes)) g")
    }

    /// Has an agent bring everything into ClickHouse, and stops it.
    func mirror() async throws {
        let agent = try stack.startAgent(Stack.withoutMatches + ["--set", "reconcile.interval=0s"])
        try await stack.drained(session)
        agent.stop(15)
    }

    func key(_ entity: Int64, _ suffix: String = ":reaction_counts") -> String {
        "\(stack.prefix)post:\(KeyTemplate.shard(of: entity, count: 100)):\(entity)\(suffix)"
    }

    var counted: CountedChunk {
        get throws {
            let batch = try session.value(
                "SELECT coalesce(max(batch), 0) FROM reactions._batch WHERE finished_at IS NOT NULL")
            return CountedChunk(batch: BatchNumber(rawValue: Int64(batch ?? "") ?? 0), part: 0)
        }
    }

    /// An entity as the agent builds it, liked by `likes` users.
    func build(
        _ entity: Int64, likes: Int, tier: EntityTier = .regular, counted: CountedChunk? = nil, builtAt: Int64 = 1,
        stamp: Stamp? = nil, listNonce: [UInt8] = nonce, sample: Int? = nil
    ) throws {
        var commands = CommandBuffer()
        append(entity, likes, tier, try counted ?? self.counted, builtAt, stamp, listNonce, sample, to: &commands)
        try send(commands)
    }

    /// Regular entities 1 … `count`.
    func buildMany(_ count: Int64, likes: Int = 0) throws {
        let counted = try counted
        for first in stride(from: 1, through: count, by: 2_000) {
            var commands = CommandBuffer()
            for entity in first...min(first + 1_999, count) {
                append(entity, likes, .regular, counted, 1, nil, Self.nonce, nil, to: &commands)
            }
            try send(commands)
        }
    }

    private func send(_ commands: CommandBuffer) throws {
        for reply in try redis.pipeline(commands) {
            if case .error(let text) = reply { throw TestSupportError(text) }
        }
    }

    private func append(
        _ entity: Int64, _ likes: Int, _ tier: EntityTier, _ counted: CountedChunk, _ builtAt: Int64, _ stamp: Stamp?,
        _ listNonce: [UInt8], _ sample: Int?, to commands: inout CommandBuffer
    ) {
        let marker = EntityMarker(nonce: Self.nonce, tier: tier, counted: counted, builtAt: builtAt)
        let reactors = (0..<(sample ?? likes)).map { index in
            Reactor(
                position: ReactionPosition(
                    version: Version(rawValue: Int64(likes - index)), time: 1, userID: Int64(index)),
                flags: 1)
        }
        let list = ReactionList(
            nonce: listNonce,
            floor: (sample ?? likes) < likes ? ReactionPosition(version: .zero, time: 0, userID: 1) : nil,
            reactors: reactors)
        func begin(_ name: StaticString, _ suffix: String, _ arguments: Int) {
            commands.begin(name, arguments: arguments + 1)
            commands.append(key: Array(key(entity, suffix).utf8))
        }
        begin("HSET", ":reaction_counts", 8)
        for text in [
            "_", String(decoding: marker.text(stamp: stamp ?? self.stamp), as: UTF8.self), "Like", "\(likes)", "total",
            "\(likes)", "users", "\(likes)",
        ] { commands.append(text.utf8) }
        begin("SET", tier == .regular ? ":reactions" : ":sample", 1)
        commands.append(list.packed(allFlags: 15))
        var suffixes = [":reaction_counts", tier == .regular ? ":reactions" : ":sample"]
        if tier == .viral {
            for (suffix, value) in [(":total_reactions", "\(likes)"), (":viral", "1")] {
                begin("SET", suffix, 1)
                commands.append(value.utf8)
                suffixes.append(suffix)
            }
        }
        for suffix in suffixes {
            begin("EXPIRE", suffix, 1)
            commands.append("86400" as StaticString)
        }
    }

    /// Makes the entity's keys as if nobody had used them for `idle` seconds.
    /// - Parameter timeToLive: milliseconds; 0 for ever.
    func age(_ entity: Int64, idle: Int, timeToLive: Int) throws {
        for suffix in [":reaction_counts", ":reactions"] {
            let name = Array(key(entity, suffix).utf8)
            var commands = CommandBuffer()
            commands.begin("DUMP", arguments: 1)
            commands.append(key: name)
            let dump = try redis.pipeline(commands).first?.bytes ?? []
            commands.removeAll()
            commands.begin("RESTORE", arguments: 6)
            commands.append(key: name)
            commands.append(Int64(timeToLive))
            commands.append(dump)
            commands.append("REPLACE" as StaticString)
            commands.append("IDLETIME" as StaticString)
            commands.append(Int64(idle))
            guard try redis.pipeline(commands).first == .text("OK") else { throw TestSupportError("not restored") }
        }
    }

    func source() async throws -> ReconcileSource {
        let source = ReconcileSource(
            settings: PostgresSettings(conninfo: stack.postgres.conninfo(database: stack.database)))
        try await source.open()
        return source
    }

    /// Runs `reactiond reconcile`; its status is thrown away for whether it ended well.
    @discardableResult
    func reconcile(_ arguments: String...) async -> (output: String, hasEndedWell: Bool) {
        await reconcile(arguments)
    }

    func reconcile(_ arguments: [String]) async -> (output: String, hasEndedWell: Bool) {
        await Self.reconcile(stack, arguments)
    }

    static func reconcile(_ stack: Stack, _ arguments: [String]) async -> (output: String, hasEndedWell: Bool) {
        do {
            return (try await stack.reactiond("reconcile", arguments), true)
        } catch {
            return ("\(error)", false)
        }
    }

    /// Faults of the newest run: class, entity, detail, whether repaired.
    func findings() throws -> [[String]] {
        try session.query(
            """
            SELECT class, coalesce(entity_id::text, ''), is_repaired FROM reactions.reconcile_finding
            WHERE reconcile_run_id = (SELECT max(reconcile_run_id) FROM reactions.reconcile_run) ORDER BY entity_id, class
            """
        ).map { $0.map { $0 ?? "" } }
    }

    func count(_ name: String) throws -> Int {
        Int(
            try session.value(
                """
                SELECT sum(found) FROM reactions.reconcile_class WHERE class = '\(name)'
                  AND reconcile_run_id = (SELECT max(reconcile_run_id) FROM reactions.reconcile_run)
                """) ?? "") ?? 0
    }

    func wanted() throws -> [String] {
        (try plain.command("ZRANGE", "\(stack.prefix)reactions:wanted:Post", "0", "-1").array ?? []).compactMap(
            \.string
        )
        .sorted()
    }

    /// Of a command of Redis, since the server started.
    func averageMicroseconds(_ command: String) throws -> Double {
        let info = try plain.command("INFO", "commandstats").string ?? ""
        let line = info.split(whereSeparator: \.isNewline).first { $0.hasPrefix("cmdstat_\(command):") } ?? ""
        let value = line.split(separator: ",").first { $0.hasPrefix("usec_per_call=") }?.dropFirst(14)
        return value.flatMap { Double($0) } ?? .infinity
    }

    func exists(_ entity: Int64, _ suffix: String = ":reaction_counts") throws -> Bool {
        try plain.command("EXISTS", key(entity, suffix)) == .integer(1)
    }
}
