internal import CHiredis
internal import Glibc
public import Pipeline
internal import PostgresSource
public import ReactionModel
internal import RedisStore

/// Applies events to user maps over one blocking hiredis connection.
///
/// An actor on a queue of its own, like the source. After any failure the connection is closed: a half-read reply is never mistaken
/// for the next one.
public actor RedisCache: Cache {
    /// Events of one call of the script: bounds how long Redis serves nobody else.
    static let eventsPerCall = 1000
    /// Calls of one pipeline: bounds the replies that wait in the socket.
    static let callsPerPipeline = 500
    /// Of how many maps one question asks whether any is there.
    static let mapsPerQuestion = 32
    /// Bounds the questions in one buffer.
    static let questionsPerPipeline = 1000

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.redis")
    private let settings: RedisSettings
    private let systemIdentifier: UInt64
    private let timeline: UInt32
    private let keys: KeySpace
    private var connection: RedisConnection?
    private var runID: [UInt8] = []
    private var digest: [UInt8] = []

    public init(settings: RedisSettings, systemIdentifier: UInt64, timeline: UInt32, keyPrefix: String) {
        self.settings = settings
        self.systemIdentifier = systemIdentifier
        self.timeline = timeline
        self.keys = KeySpace(prefix: Array(keyPrefix.utf8))
    }

    public func apply(_ events: [Event], catalog: [Int16: EntityType]) throws(CacheError) {
        var calls = groupedByMap(events, catalog)
        guard !calls.isEmpty else { return }
        try converse { connection throws(CacheError) in
            if calls.count > Self.callsPerPipeline { calls = try existing(calls, catalog, over: connection) }
            var start = 0
            while start < calls.count {
                let end = min(start + Self.callsPerPipeline, calls.count)
                try send(calls[start..<end], events, catalog, over: connection)
                start = end
            }
        }
    }

    @discardableResult
    public func drop(_ users: [Int64], of type: EntityType) throws(CacheError) -> Int {
        try converse { connection throws(CacheError) in
            var count: Int64 = 0
            for start in stride(from: 0, to: users.count, by: Self.mapsPerQuestion * Self.questionsPerPipeline) {
                let some = users[start..<min(start + Self.mapsPerQuestion * Self.questionsPerPipeline, users.count)]
                for reply in try connection.pipeline(unlinks(some, of: type)) {
                    guard case .integer(let found) = reply else {
                        throw CacheError(message: "unexpected reply to UNLINK: \(reply)")
                    }
                    count += found
                }
            }
            return Int(count)
        }
    }

    private func unlinks(_ users: ArraySlice<Int64>, of type: EntityType) -> CommandBuffer {
        var commands = CommandBuffer()
        for first in stride(from: users.startIndex, to: users.endIndex, by: Self.mapsPerQuestion) {
            let some = users[first..<min(first + Self.mapsPerQuestion, users.endIndex)]
            commands.begin("UNLINK", arguments: some.count)
            for user in some {
                commands.append(keys.key(type.userMapKey, id: user, shardCount: type.shardCount))
            }
        }
        return commands
    }

    /// Asks a server over a connection of its own.
    public static func identity(of settings: RedisSettings) async throws(CacheError) -> RedisIdentity {
        try await RedisProbe().identity(of: settings)
    }

    /// Events of one map, as their positions in the chunk.
    private struct Call {
        var typeID: Int16
        var userID: Int64
        var positions: ArraySlice<Int32>
    }

    /// One call per map, or several for many events. Events of a whole type have raised the epoch in their own transaction; those of a
    /// type that is no longer known have no map.
    private func groupedByMap(_ events: [Event], _ catalog: [Int16: EntityType]) -> [Call] {
        let known = Set(catalog.keys)
        var order = events.indices.filter { events[$0].scope == .reaction && known.contains(events[$0].typeID) }
            .map { Int32(truncatingIfNeeded: $0) }
        events.withUnsafeBufferPointer { events in
            order.sort {
                let (left, right) = (events[Int($0)], events[Int($1)])
                return (left.userID, left.typeID, $0) < (right.userID, right.typeID, $1)
            }
        }
        var calls: [Call] = []
        var start = 0
        while start < order.count {
            let first = events[Int(order[start])]
            var end = start + 1
            while end < order.count, end - start < Self.eventsPerCall, events[Int(order[end])].userID == first.userID,
                events[Int(order[end])].typeID == first.typeID
            {
                end += 1
            }
            calls.append(Call(typeID: first.typeID, userID: first.userID, positions: order[start..<end]))
            start = end
        }
        return calls
    }

    /// The calls of groups in which some map is there. A map that begins after the question begins after the events' commit, so its
    /// fill sees them.
    ///
    /// A backlog's users mostly have none, and asking for many keys at once costs a fraction of looking into each.
    private func existing(
        _ calls: [Call], _ catalog: [Int16: EntityType], over connection: RedisConnection
    ) throws(CacheError) -> [Call] {
        let groups = stride(from: 0, to: calls.count, by: Self.mapsPerQuestion).map {
            calls[$0..<min($0 + Self.mapsPerQuestion, calls.count)]
        }
        var found: [Call] = []
        var start = 0
        while start < groups.count {
            let asked = groups[start..<min(start + Self.questionsPerPipeline, groups.count)]
            var commands = CommandBuffer()
            for group in asked {
                commands.begin("EXISTS", arguments: group.count)
                for call in group { if let type = catalog[call.typeID] { commands.append(key(of: call, type)) } }
            }
            for (group, reply) in zip(asked, try connection.pipeline(commands)) {
                guard case .integer(let count) = reply else {
                    throw CacheError(message: "unexpected reply to EXISTS: \(reply)")
                }
                if count > 0 { found += group }
            }
            start += asked.count
        }
        return found
    }

    private func key(of call: Call, _ type: EntityType) -> [UInt8] {
        keys.key(type.userMapKey, id: call.userID, shardCount: type.shardCount)
    }

    private func send(
        _ calls: ArraySlice<Call>, _ events: [Event], _ catalog: [Int16: EntityType], over connection: RedisConnection
    ) throws(CacheError) {
        var addressed: [AddressedCall] = []
        var stamps: [Int16: Stamp] = [:]
        for call in calls {
            guard let type = catalog[call.typeID] else { continue }
            let stamp =
                stamps[call.typeID]
                ?? Stamp(redisRunID: runID, systemIdentifier: systemIdentifier, timeline: timeline, epoch: type.epoch)
            stamps[call.typeID] = stamp
            addressed.append(
                AddressedCall(
                    map: UserMapAddress(key: key(of: call, type), stamp: stamp),
                    events: call.positions.map { events[Int($0)] }))
        }
        let news = try news(of: addressed, over: connection)
        guard !news.isEmpty else { return }
        var commands = CommandBuffer()
        for call in news {
            commands.beginApply(call.map, digest: digest, events: call.events.count)
            for event in call.events {
                commands.appendEvent(
                    entityID: event.entityID, setMask: event.setMask, clearMask: event.clearMask,
                    version: event.version.rawValue)
            }
        }
        var replies = try connection.pipeline(commands)
        if replies.contains(where: { $0.isMissingScript }) {
            // Somebody has flushed the scripts; applying twice is harmless.
            try load(over: connection)
            replies = try connection.pipeline(commands)
        }
        for reply in replies {
            guard case .integer = reply else { throw CacheError(message: "unexpected reply to an apply: \(reply)") }
        }
    }

    private struct AddressedCall {
        var map: UserMapAddress
        var events: [Event]
    }

    /// The calls without what their maps have already, those with nothing left out.
    private func news(
        of calls: [AddressedCall], over connection: RedisConnection
    ) throws(CacheError) -> [AddressedCall] {
        var commands = CommandBuffer()
        for call in calls { commands.appendReadFields(call.events.map(\.entityID), of: call.map.key) }
        var news: [AddressedCall] = []
        for (call, reply) in zip(calls, try connection.pipeline(commands)) {
            guard case .array(let found) = reply, found.count == call.events.count + 1 else {
                throw CacheError(message: "unexpected reply to a look before an apply: \(reply)")
            }
            let fields = found.map { field in
                if case .text(let text) = field { ByteCursor(Array(text.utf8)) } else { nil as ByteCursor? }
            }
            let events = zip(call.events, fields.dropFirst()).filter { event, field in
                UserMapNews.isNews(
                    version: event.version.rawValue, kinds: event.setMask | event.clearMask, marker: fields[0],
                    field: field, stamp: call.map.stamp)
            }
            if !events.isEmpty { news.append(AddressedCall(map: call.map, events: events.map(\.0))) }
        }
        return news
    }

    private func load(over connection: RedisConnection) throws(CacheError) {
        var commands = CommandBuffer()
        commands.begin("SCRIPT", arguments: 2)
        commands.append("LOAD" as StaticString)
        commands.append(Script.userMapApply.source)
        guard case .text(let digest)? = try connection.pipeline(commands).first else {
            throw CacheError(message: "Redis did not load a script")
        }
        self.digest = Array(digest.utf8)
    }

    private func converse<Result>(
        _ body: (RedisConnection) throws(CacheError) -> Result
    ) throws(CacheError) -> Result {
        do throws(CacheError) {
            let connection = if let connection { connection } else { try connect() }
            return try body(connection)
        } catch {
            connection = nil
            throw error
        }
    }

    private func connect() throws(CacheError) -> RedisConnection {
        let opened = try RedisConnection(settings: settings)
        let identity = try Self.identity(over: opened)
        runID = Array(identity.runID.utf8)
        try load(over: opened)
        connection = opened
        return opened
    }

    static func identity(over connection: RedisConnection) throws(CacheError) -> RedisIdentity {
        guard case .text(let server) = try connection.command("INFO", "server"),
            let runID = field("run_id", of: server), let version = field("redis_version", of: server)
        else { throw CacheError(message: "INFO has no run id") }
        guard case .text(let memory) = try connection.command("INFO", "memory"),
            let policy = field("maxmemory_policy", of: memory)
        else { throw CacheError(message: "INFO has no maxmemory policy") }
        guard case .array(let time) = try connection.command("TIME"), time.count == 2,
            case .text(let seconds) = time[0],
            case .text(let microseconds) = time[1], let seconds = Int64(seconds), let microseconds = Int64(microseconds)
        else { throw CacheError(message: "TIME has no time") }
        return RedisIdentity(
            runID: runID, version: version, maxmemoryPolicy: policy, time: seconds * 1_000_000 + microseconds)
    }

    private static func field(_ name: String, of info: String) -> String? {
        info.split(whereSeparator: \.isNewline).first { $0.hasPrefix(name + ":") }.map {
            String($0.dropFirst(name.count + 1))
        }
    }
}

/// Keeps a blocking question off the cooperative pool.
private actor RedisProbe {
    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.redis.probe")

    func identity(of settings: RedisSettings) throws(CacheError) -> RedisIdentity {
        try RedisCache.identity(over: RedisConnection(settings: settings))
    }
}
