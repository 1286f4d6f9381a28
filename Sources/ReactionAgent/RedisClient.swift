internal import Glibc
internal import Pipeline
internal import RedisStore

/// A reply, and the history of the server that gave it (`RedisIdentity`), of which the stamps of what it keeps are made.
struct RedisAnswer {
    var reply: RedisReply
    /// Empty if no server has answered.
    var history: [UInt8]
}

/// Redis as the agent talks to it: one server, the master that sentinels name, or the masters of a cluster, over blocking
/// connections that are opened when they are needed. Not Sendable: it belongs to the actor that made it.
///
/// A connection that fails is closed, and whom to ask is found out anew with the next question. Nothing is sent twice, except what was
/// answered with a redirection or with NOSCRIPT, and therefore not carried out.
final class RedisClient {
    /// How long keys that are on their way are waited for before they are asked for again.
    private static let pause: Duration = .milliseconds(5)

    private let settings: RedisSettings
    private let connections: RedisConnections
    private let discovery: RedisDiscovery
    private let prefix: [UInt8]
    private var topology = RedisTopology.unknown
    private var isOutdated = false

    /// - Parameter keyPrefix: of all keys that are spoken of.
    init(settings: RedisSettings, keyPrefix: String = "") {
        self.settings = settings
        prefix = Array(keyPrefix.utf8)
        connections = RedisConnections(settings: settings)
        discovery = RedisDiscovery(settings: settings, keyPrefix: prefix, connections: connections)
    }

    /// Whether keys are named as a cluster wants them.
    func isCluster() throws(CacheError) -> Bool {
        try find()
        if case .cluster = topology { return true }
        return false
    }

    /// How keys are named.
    func keySpace() throws(CacheError) -> KeySpace {
        KeySpace(prefix: prefix, isCluster: try isCluster())
    }

    /// The answers in the order of the commands, errors among them. Fails if a server could not be asked; what is for the others
    /// was carried out.
    ///
    /// - Parameter scripts: those that the commands call, in case a server has forgotten them.
    func pipeline(_ commands: CommandBuffer, scripts: [Script] = []) throws(CacheError) -> [RedisReply] {
        try answers(to: commands, scripts: scripts).map(\.reply)
    }

    func answers(to commands: CommandBuffer, scripts: [Script] = []) throws(CacheError) -> [RedisAnswer] {
        let (answers, failure) = try ask(commands, scripts: scripts)
        if let failure { throw failure }
        return answers
    }

    /// The same, but the answer to what could not be asked is an error, and the failure, if there was any, the second part. Fails if
    /// it cannot be found out whom to ask.
    func ask(
        _ commands: CommandBuffer, scripts: [Script] = []
    ) throws(CacheError) -> (answers: [RedisAnswer], failure: CacheError?) {
        try find()
        switch topology {
        case .unknown: throw CacheError(message: "Redis was not found")
        case .server(let place):
            let connection = try connection(to: place)
            let replies = try talk(over: connection, commands, scripts: scripts)
            return (replies.map { RedisAnswer(reply: $0, history: connection.identity.history) }, nil)
        case .cluster(let slots):
            return route(commands, by: slots, scripts: scripts)
        }
    }

    /// Sends commands, each of which names a stamp, to the servers of the stamps' histories and to no others. Nil is the answer of
    /// one that was not carried out, because its key is elsewhere or its server another one by now.
    func pipeline(
        _ commands: CommandBuffer, histories: [[UInt8]], scripts: [Script]
    ) throws(CacheError) -> [RedisReply?] {
        var failure: CacheError?
        var replies = [RedisReply?](repeating: nil, count: commands.commandCount)
        for (history, numbers) in Dictionary(grouping: histories.indices, by: { histories[$0] }) {
            guard let connection = connections.first(where: { $0.identity.history == history }) else { continue }
            do throws(CacheError) {
                for isAsking in [false, true] {
                    let chosen = numbers.filter { isOnItsWay(to: connection, $0, of: commands) == isAsking }
                    let found = try talk(
                        over: connection, part(chosen, of: commands), isAsking: isAsking, scripts: scripts)
                    // A new history came with the answer: whom the commands were for is gone.
                    guard connection.identity.history == history else { break }
                    for (number, reply) in zip(chosen, found) where !noteMove(reply, from: connection) {
                        replies[number] = reply
                    }
                }
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return replies
    }

    /// The digest of a script; every server knows it under the same.
    func digest(of script: Script) throws(CacheError) -> [UInt8] {
        try find()
        guard let place = masters.first(where: { connections[$0] != nil }) ?? masters.first else {
            throw CacheError(message: "Redis was not found")
        }
        let connection = try connection(to: place)
        return try guarded(connection) { connection throws(CacheError) in try connection.digest(of: script) }
    }

    // MARK: One server

    private func talk(
        over connection: RedisConnection, _ commands: CommandBuffer, isAsking: Bool = false, scripts: [Script]
    ) throws(CacheError) -> [RedisReply] {
        guard commands.commandCount > 0 else { return [] }
        return try guarded(connection) { connection throws(CacheError) in
            try connection.send(commands, isAsking: isAsking)
            let replies = try connection.receive(commands.commandCount)
            return try again(replies, to: commands, isAsking: isAsking, scripts, over: connection)
        }
    }

    /// Loads forgotten scripts and sends the commands again that were not carried out for that.
    private func again(
        _ replies: [RedisReply], to commands: CommandBuffer, isAsking: Bool, _ scripts: [Script],
        over connection: RedisConnection
    ) throws(CacheError) -> [RedisReply] {
        if replies.contains(where: \.saysReadOnly) { throw CacheError(message: "the Redis server is a replica") }
        let missed = replies.indices.filter { replies[$0].isMissingScript }
        guard !missed.isEmpty, !scripts.isEmpty else { return replies }
        for script in scripts { try connection.load(script) }
        try connection.send(part(missed, of: commands), isAsking: isAsking)
        var replies = replies
        for (number, reply) in zip(missed, try connection.receive(missed.count)) { replies[number] = reply }
        return replies
    }

    /// Closes the connection on a failure.
    private func guarded<Result>(
        _ connection: RedisConnection, _ body: (RedisConnection) throws(CacheError) -> Result
    ) throws(CacheError) -> Result {
        do throws(CacheError) { return try body(connection) } catch {
            lost(connection.place)
            throw error
        }
    }

    private func lost(_ place: RedisPlace) {
        connections.drop(place)
        isOutdated = true
        if case .server = topology { topology = .unknown }
    }

    private func connection(to place: RedisPlace) throws(CacheError) -> RedisConnection {
        do throws(CacheError) {
            if case .cluster = topology { return try connections.ofCluster(to: place) }
            return try connections.open(to: place)
        } catch {
            lost(place)
            throw error
        }
    }

    private func part(_ numbers: [Int], of commands: CommandBuffer) -> CommandBuffer {
        if numbers.count == commands.commandCount { return commands }
        var part = CommandBuffer()
        for number in numbers { part.append(number, of: commands) }
        return part
    }

    // MARK: A cluster

    private func route(
        _ commands: CommandBuffer, by slots: ClusterSlots, scripts: [Script]
    ) -> (answers: [RedisAnswer], failure: CacheError?) {
        var failure: CacheError?
        var answers = Array(
            repeating: RedisAnswer(reply: .error("UNREACHABLE"), history: []), count: commands.commandCount)
        var routing = ClusterRouting(commands, slots: slots)
        if !routing.unplaced.isEmpty { failure = CacheError(message: "a slot of the Redis Cluster has no server") }
        let end = ContinuousClock.now + settings.timeout
        while true {
            // Everybody is sent its part before the first answer is waited for.
            var talks: [(part: ClusterRouting.Part, commands: CommandBuffer, connection: RedisConnection)] = []
            for part in routing.parts {
                do throws(CacheError) {
                    let own = self.part(part.commands, of: commands)
                    let connection = try connection(to: part.place)
                    try guarded(connection) { connection throws(CacheError) in
                        try connection.send(own, isAsking: part.isAsking)
                    }
                    talks.append((part, own, connection))
                } catch {
                    routing.partFailed()
                    failure = error
                }
            }
            for (part, own, connection) in talks {
                do throws(CacheError) {
                    let replies = try guarded(connection) { connection throws(CacheError) in
                        let replies = try connection.receive(own.commandCount)
                        return try again(replies, to: own, isAsking: part.isAsking, scripts, over: connection)
                    }
                    for (command, reply) in zip(part.commands, replies) {
                        if case .error(let text) = reply, routing.follow(text.utf8, to: command, of: part) { continue }
                        answers[command] = RedisAnswer(reply: reply, history: connection.identity.history)
                    }
                } catch {
                    routing.partFailed()
                    failure = error
                }
            }
            if routing.openCount > 0, ContinuousClock.now >= end {
                failure = CacheError(message: "a slot of the Redis Cluster is on its way")
                _ = routing.giveUp()
            }
            guard let round = routing.nextRound() else { break }
            if round == .afterPause { usleep(UInt32(Self.pause.components.attoseconds / 1_000_000_000_000)) }
        }
        topology = .cluster(routing.slots)
        if routing.isOutdated { isOutdated = true }
        return (answers, failure)
    }

    /// Whether the server has said something of a slot that is not its own yet.
    private func isOnItsWay(to connection: RedisConnection, _ command: Int, of commands: CommandBuffer) -> Bool {
        guard case .cluster(let slots) = topology, let slot = commands.slot(of: command) else { return false }
        return slots[slot] != connection.place
    }

    /// Whether the reply says that the key is elsewhere.
    private func noteMove(_ reply: RedisReply, from connection: RedisConnection) -> Bool {
        guard case .error(let text) = reply, let redirection = Redirection(text.utf8, from: connection.place) else {
            return false
        }
        if case .moved(let slot, let place) = redirection, case .cluster(var slots) = topology {
            slots.assign(slot...slot, to: place)
            topology = .cluster(slots)
            isOutdated = true
        }
        return true
    }

    // MARK: Whom to ask

    /// Every server that has keys, as far as is known.
    private var masters: [RedisPlace] {
        switch topology {
        case .unknown: []
        case .server(let place): [place]
        case .cluster(let slots): slots.masters
        }
    }

    private func find() throws(CacheError) {
        switch topology {
        case .server: return
        case .cluster where !isOutdated: return
        case .cluster, .unknown: break
        }
        topology = try discovery.find(known: masters)
        isOutdated = false
    }

    // MARK: Of each server

    /// Asks each server that has keys something; they are found anew.
    func each<Result>(
        _ body: (RedisConnection) throws(CacheError) -> Result
    ) throws(CacheError) -> (results: [Result], missingSlots: Int) {
        try find()
        var results: [Result] = []
        for place in masters { results.append(try guarded(connection(to: place), body)) }
        guard case .cluster(let slots) = topology else { return (results, 0) }
        return (results, slots.unknownCount)
    }

    /// The same, with nil for a server that cannot be asked. Fails if they cannot be found.
    func eachByItself<Result>(
        _ body: (RedisConnection) throws(CacheError) -> Result
    ) throws(CacheError) -> [(place: RedisPlace, result: Result?)] {
        try find()
        return masters.map { place in (place, try? guarded(connection(to: place), body)) }
    }
}

extension RedisReply {
    var isMissingScript: Bool { starts(with: "NOSCRIPT") }
    fileprivate var saysReadOnly: Bool { starts(with: "READONLY") }

    private func starts(with word: String) -> Bool {
        if case .error(let text) = self { text.hasPrefix(word) } else { false }
    }
}
