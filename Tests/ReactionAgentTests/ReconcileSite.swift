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
    let redisSettings: RedisSettings
    let keys: KeySpace
    private let client: RedisClient
    private let type: EntityType
    private let place: ReconcileSource.Place
    static let nonce = Array("00ff0123456789ab".utf8)

    static func make(
        redis: (any RedisDeployment)? = nil, clickHouse: (any ClickHouseEndpoint)? = nil
    ) async throws -> ReconcileSite {
        let stack = try await Stack.make(redis: redis, clickHouse: clickHouse)
        let session = try stack.connect()
        try session.execute(
            """
            SELECT reactions.add_entity_type('Post', entity_key => 'post:<shard>:<entity>',
                user_map_key => 'user:<shard>:<user>:reactions')
            """)
        return try await ReconcileSite(stack: stack, session: session)
    }

    /// With the Redis that runs now.
    init(stack: Stack, session: TestSupport.PostgresConnection) async throws {
        self.stack = stack
        self.session = session
        redisSettings = RedisSettings(
            endpoint: try RedisEndpoint(stack.redisDeployment.url), connectTimeout: .seconds(2), timeout: .seconds(10))
        client = RedisClient(settings: redisSettings)
        keys = KeySpace(prefix: Array(stack.prefix.utf8), isCluster: try client.isCluster())
        let source = try await Self.source(stack)
        place = try await source.place()
        await source.close()
        guard let type = place.types.first else { throw TestSupportError("no entity type") }
        self.type = type
    }

    /// Sends a command to who has the key, which is its second word.
    @discardableResult
    func redis(_ arguments: String...) throws -> TestSupport.RedisReply {
        try stack.redisDeployment.command(arguments)
    }

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

    func key(_ entity: Int64, _ suffix: StaticString = KeySpace.countsSuffix) -> String {
        String(
            decoding: keys.key(type.entityKey, id: entity, shardCount: type.shardCount, suffix: suffix), as: UTF8.self)
    }

    /// Of the servers that have the entities.
    private func stamps(_ entities: [Int64]) throws -> [Stamp] {
        var commands = CommandBuffer()
        for entity in entities {
            commands.begin("EXISTS", arguments: 1)
            commands.append(key: Array(key(entity).utf8))
        }
        return try client.answers(to: commands).map { answer in
            Stamp(
                redisHistory: answer.history, systemIdentifier: place.systemIdentifier, timeline: place.timeline,
                epoch: type.epoch)
        }
    }

    func stamp(of entity: Int64) throws -> Stamp { try stamps([entity])[0] }

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
        append(
            entity, likes, tier, try counted ?? self.counted, builtAt, try stamp ?? self.stamp(of: entity), listNonce,
            sample,
            to: &commands)
        try send(commands)
    }

    /// Regular entities 1 … `count`.
    func buildMany(_ count: Int64, likes: Int = 0) throws {
        let counted = try counted
        for first in stride(from: 1, through: count, by: 2_000) {
            var commands = CommandBuffer()
            let entities = Array(first...min(first + 1_999, count))
            for (entity, stamp) in zip(entities, try stamps(entities)) {
                append(entity, likes, .regular, counted, 1, stamp, Self.nonce, nil, to: &commands)
            }
            try send(commands)
        }
    }

    private func send(_ commands: CommandBuffer) throws {
        for reply in try client.pipeline(commands) {
            if case .error(let text) = reply { throw TestSupportError(text) }
        }
    }

    private func append(
        _ entity: Int64, _ likes: Int, _ tier: EntityTier, _ counted: CountedChunk, _ builtAt: Int64, _ stamp: Stamp,
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
        func begin(_ name: StaticString, _ suffix: StaticString, _ arguments: Int) {
            commands.begin(name, arguments: arguments + 1)
            commands.append(key: Array(key(entity, suffix).utf8))
        }
        begin("HSET", ":reaction_counts", 8)
        for text in [
            "_", String(decoding: marker.text(stamp: stamp), as: UTF8.self), "Like", "\(likes)", "total",
            "\(likes)", "users", "\(likes)",
        ] { commands.append(text.utf8) }
        begin("SET", tier == .regular ? ":reactions" : ":sample", 1)
        commands.append(list.packed(allFlags: 15))
        var suffixes: [StaticString] = [":reaction_counts", tier == .regular ? ":reactions" : ":sample"]
        if tier == .viral {
            for (suffix, value) in [(KeySpace.totalSuffix, "\(likes)"), (KeySpace.viralSuffix, "1")] {
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
        for suffix in [KeySpace.countsSuffix, KeySpace.reactionsSuffix] {
            let name = Array(key(entity, suffix).utf8)
            var commands = CommandBuffer()
            commands.begin("DUMP", arguments: 1)
            commands.append(key: name)
            let dump = try client.pipeline(commands).first?.bytes ?? []
            commands.removeAll()
            commands.begin("RESTORE", arguments: 6)
            commands.append(key: name)
            commands.append(Int64(timeToLive))
            commands.append(dump)
            commands.append("REPLACE" as StaticString)
            commands.append("IDLETIME" as StaticString)
            commands.append(Int64(idle))
            guard try client.pipeline(commands).first == .text("OK") else { throw TestSupportError("not restored") }
        }
    }

    func source() async throws -> ReconcileSource { try await Self.source(stack) }

    private static func source(_ stack: Stack) async throws -> ReconcileSource {
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
        (try redis("ZRANGE", "\(stack.prefix)reactions:wanted:Post", "0", "-1").array ?? []).compactMap(
            \.string
        )
        .sorted()
    }

    /// Of a command of Redis, since the server started.
    func averageMicroseconds(_ command: String) throws -> Double {
        let info = try stack.redis.command("INFO", "commandstats").string ?? ""
        let line = info.split(whereSeparator: \.isNewline).first { $0.hasPrefix("cmdstat_\(command):") } ?? ""
        let value = line.split(separator: ",").first { $0.hasPrefix("usec_per_call=") }?.dropFirst(14)
        return value.flatMap { Double($0) } ?? .infinity
    }

    func exists(_ entity: Int64, _ suffix: StaticString = KeySpace.countsSuffix) throws -> Bool {
        try redis("EXISTS", key(entity, suffix)) == .integer(1)
    }
}
