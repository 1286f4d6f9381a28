public import Pipeline
internal import PostgresSource
public import ReactionModel
internal import RedisStore

/// Applies events to user maps, over blocking connections.
///
/// An actor on a queue of its own, like the source. What is for a server of a cluster that is down fails; what is for the others
/// is applied all the same.
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
    private let client: RedisClient
    private let systemIdentifier: UInt64
    private let timeline: UInt32
    /// User maps are named alike in a cluster and elsewhere.
    private let keys: KeySpace

    public init(settings: RedisSettings, systemIdentifier: UInt64, timeline: UInt32, keyPrefix: String) {
        self.client = RedisClient(settings: settings, keyPrefix: keyPrefix)
        self.systemIdentifier = systemIdentifier
        self.timeline = timeline
        self.keys = KeySpace(prefix: Array(keyPrefix.utf8))
    }

    public func apply(_ events: [Event], catalog: [Int16: EntityType]) throws(CacheError) {
        var calls = groupedByMap(events, catalog)
        guard !calls.isEmpty else { return }
        // A cluster takes no question about keys of several slots.
        if calls.count > Self.callsPerPipeline, try !client.isCluster() { calls = try existing(calls, catalog) }
        var failure: CacheError?
        for start in stride(from: 0, to: calls.count, by: Self.callsPerPipeline) {
            var rest = calls[start..<min(start + Self.callsPerPipeline, calls.count)].map { call in
                UserCall(key: key(of: call, catalog), call.typeID, events: call.positions.map { events[Int($0)] })
            }
            do throws(CacheError) {
                for _ in 0..<ClusterRouting.mostRedirections where !rest.isEmpty { rest = try offer(rest, catalog) }
                if !rest.isEmpty { throw CacheError(message: "user maps are on their way between servers") }
            } catch {
                guard try client.isCluster() else { throw error }
                failure = error
            }
        }
        if let failure { throw failure }
    }

    @discardableResult
    public func drop(_ users: [Int64], of type: EntityType) throws(CacheError) -> Int {
        let keysPerCommand = try client.isCluster() ? 1 : Self.mapsPerQuestion
        var count: Int64 = 0
        for start in stride(from: 0, to: users.count, by: keysPerCommand * Self.questionsPerPipeline) {
            let some = users[start..<min(start + keysPerCommand * Self.questionsPerPipeline, users.count)]
            for reply in try client.pipeline(unlinks(some, of: type, keysPerCommand)) {
                guard case .integer(let found) = reply else {
                    throw CacheError(message: "unexpected reply to UNLINK: \(reply)")
                }
                count += found
            }
        }
        return Int(count)
    }

    private func unlinks(_ users: ArraySlice<Int64>, of type: EntityType, _ keysPerCommand: Int) -> CommandBuffer {
        var commands = CommandBuffer()
        for first in stride(from: users.startIndex, to: users.endIndex, by: keysPerCommand) {
            let some = users[first..<min(first + keysPerCommand, users.endIndex)]
            commands.begin("UNLINK", arguments: some.count)
            for user in some {
                commands.append(key: keys.key(type.userMapKey, id: user, shardCount: type.shardCount))
            }
        }
        return commands
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
    private func existing(_ calls: [Call], _ catalog: [Int16: EntityType]) throws(CacheError) -> [Call] {
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
                for call in group { commands.append(key: key(of: call, catalog)) }
            }
            for (group, reply) in zip(asked, try client.pipeline(commands)) {
                guard case .integer(let count) = reply else {
                    throw CacheError(message: "unexpected reply to EXISTS: \(reply)")
                }
                if count > 0 { found += group }
            }
            start += asked.count
        }
        return found
    }

    private func key(of call: Call, _ catalog: [Int16: EntityType]) -> [UInt8] {
        guard let type = catalog[call.typeID] else { return [] }
        return keys.key(type.userMapKey, id: call.userID, shardCount: type.shardCount)
    }

    /// The events of one map.
    private struct UserCall {
        var key: [UInt8]
        var typeID: Int16
        var events: [Event]

        init(key: [UInt8], _ typeID: Int16, events: [Event]) {
            self.key = key
            self.typeID = typeID
            self.events = events
        }
    }

    /// Applies what the maps do not have yet. Returns the calls whose maps have moved meanwhile.
    ///
    /// A map is looked at first, which tells who has it, and an apply is for that server and its history alone.
    private func offer(_ calls: [UserCall], _ catalog: [Int16: EntityType]) throws(CacheError) -> [UserCall] {
        var look = CommandBuffer()
        for call in calls { look.appendReadFields(call.events.map(\.entityID), of: call.key) }
        let (answers, failure) = try client.ask(look)
        let digest = try client.digest(of: .userMapApply)
        var commands = CommandBuffer()
        var sent: [UserCall] = []
        var histories: [[UInt8]] = []
        var stamps = Stamps(systemIdentifier: systemIdentifier, timeline: timeline, catalog: catalog)
        for (call, answer) in zip(calls, answers) where !answer.history.isEmpty {
            let map = UserMapAddress(key: call.key, stamp: stamps[call.typeID, answer.history])
            let news = try Self.news(in: call.events, answer.reply, map.stamp)
            guard !news.isEmpty else { continue }
            sent.append(UserCall(key: call.key, call.typeID, events: news))
            histories.append(answer.history)
            commands.beginApply(map, digest: digest, events: news.count)
            for event in news {
                commands.appendEvent(
                    entityID: event.entityID, setMask: event.setMask, clearMask: event.clearMask,
                    version: event.version.rawValue)
            }
        }
        var moved: [UserCall] = []
        let replies = try client.pipeline(commands, histories: histories, scripts: [.userMapApply])
        for (call, reply) in zip(sent, replies) {
            switch reply {
            case .integer: break
            case nil: moved.append(call)
            case let reply?: throw CacheError(message: "unexpected reply to an apply: \(reply)")
            }
        }
        if let failure { throw failure }
        return moved
    }

    /// The events that a map does not have already.
    private static func news(in events: [Event], _ reply: RedisReply, _ stamp: Stamp) throws(CacheError) -> [Event] {
        // Somebody else's key under this name: readers say so, and there is no map to be made right.
        if case .error(let text) = reply, text.hasPrefix("WRONGTYPE") { return [] }
        guard case .array(let found) = reply, found.count == events.count + 1 else {
            throw CacheError(message: "unexpected reply to a look before an apply: \(reply)")
        }
        let fields = found.map { field in
            if case .text(let text) = field { ByteCursor(Array(text.utf8)) } else { nil as ByteCursor? }
        }
        return zip(events, fields.dropFirst()).filter { event, field in
            UserMapNews.isNews(
                version: event.version.rawValue, kinds: event.setMask | event.clearMask, marker: fields[0],
                field: field, stamp: stamp)
        }.map(\.0)
    }
}
