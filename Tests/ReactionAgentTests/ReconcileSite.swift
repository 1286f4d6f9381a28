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
        // While others write to the same server SCAN may tell a key twice.
        let own: any RedisDeployment = if let redis { redis } else { try await TestSupport.RedisServer.start() }
        let stack = try await Stack.make(redis: own, clickHouse: clickHouse)
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

    func redis(_ command: String, _ arguments: [String]) throws {
        if case .error(let text) = try stack.redisDeployment.command([command] + arguments) {
            throw TestSupportError(text)
        }
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

    /// A regular entity as the agent builds it, to which users 1 … `likes` have reacted with the flags.
    func build(
        _ entity: Int64, likes: Int, flags: Int32 = 1, counted: CountedChunk? = nil, builtAt: Int64 = 1,
        stamp: Stamp? = nil, listNonce: [UInt8] = nonce
    ) throws {
        var commands = CommandBuffer()
        append(
            entity, likes, flags, try counted ?? self.counted, builtAt, try stamp ?? self.stamp(of: entity), listNonce,
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
                append(entity, likes, 1, counted, 1, stamp, Self.nonce, to: &commands)
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
        _ entity: Int64, _ likes: Int, _ flags: Int32, _ counted: CountedChunk, _ builtAt: Int64, _ stamp: Stamp,
        _ listNonce: [UInt8], to commands: inout CommandBuffer
    ) {
        let marker = EntityMarker(nonce: Self.nonce, tier: .regular, counted: counted, builtAt: builtAt)
        let reactors = (1...Int64(max(likes, 1))).reversed().prefix(likes).map { user in
            Reactor(
                position: ReactionPosition(version: Version(rawValue: user), time: 1, userID: user), flags: flags)
        }
        func append(_ name: StaticString, _ suffix: StaticString, _ arguments: [[UInt8]]) {
            commands.begin(name, arguments: arguments.count + 1)
            commands.append(key: Array(key(entity, suffix).utf8))
            for argument in arguments { commands.append(argument) }
        }
        var fields: [[UInt8]] = [[UInt8(ascii: "_")], marker.text(stamp: stamp)]
        var total = 0
        for kind in type.kinds where flags & kind.flag != 0 {
            fields += [Array(kind.name.utf8), Array("\(likes)".utf8)]
            total += likes
        }
        for (name, number) in [("total", total), ("users", likes)] {
            fields += [Array(name.utf8), Array("\(number)".utf8)]
        }
        append("HSET", KeySpace.countsSuffix, fields)
        append(
            "SET", KeySpace.reactionsSuffix, [ReactionList(nonce: listNonce, reactors: reactors).packed(allFlags: 15)])
        for suffix in [KeySpace.countsSuffix, KeySpace.reactionsSuffix] {
            append("EXPIRE", suffix, [Array("86400".utf8)])
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

    /// What a run of now would look with, and the type as it is now.
    func scan() async throws -> (CacheScan, EntityType) {
        let source = try await source()
        let place = try await source.place()
        await source.close()
        guard let type = place.types.first else { throw TestSupportError("no entity type") }
        let scan = CacheScan(settings: redisSettings, place: place)
        _ = try await scan.begin()
        return (scan, type)
    }

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

    /// Of a command of Redis, since its statistics were reset.
    func calls(_ command: String) throws -> Int {
        let info = try stack.redis.command("INFO", "commandstats").string ?? ""
        let line = info.split(whereSeparator: \.isNewline).first { $0.hasPrefix("cmdstat_\(command):calls=") }
        return line?.split(whereSeparator: { !$0.isNumber }).first.flatMap { Int($0) } ?? 0
    }

    /// How many of the calls of a command took at most about so many microseconds, from 0 to 1.
    func share(of command: String, within microseconds: Int64) throws -> Double {
        let histogram = try stack.redis.command("LATENCY", "HISTOGRAM", command).array?.last?.array ?? []
        guard histogram.count == 4, let calls = histogram[1].integer, let steps = histogram[3].array else { return 0 }
        var within: Int64 = 0
        for index in stride(from: 0, to: steps.count - 1, by: 2) where (steps[index].integer ?? .max) <= microseconds {
            within = steps[index + 1].integer ?? 0
        }
        return Double(within) / Double(max(calls, 1))
    }

    func exists(_ entity: Int64, _ suffix: StaticString = KeySpace.countsSuffix) throws -> Bool {
        try redis("EXISTS", key(entity, suffix)) == .integer(1)
    }
}
