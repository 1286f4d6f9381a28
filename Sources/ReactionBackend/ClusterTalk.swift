import RedisStore

/// One pipeline through a cluster, whose answers come in the order of the commands.
///
/// All servers are sent their parts before the first answer is waited for; what waits for one of them does not keep the others from
/// answering. What cannot be asked, because its server is down, gets an error as its answer; the other servers' answers stand. The
/// links that it has used are idle or closed when it has ended.
final class ClusterTalk {
    private enum State {
        /// Can transition to: opening, answering.
        case opening(Int)
        /// Can transition to: answering, opening, pausing, done.
        case answering(Int)
        /// Can transition to: opening.
        case pausing(until: Deadline)
        case done
    }

    /// How long keys that are on their way are waited for before they are asked for again, in milliseconds.
    private static let pause: Int64 = 5

    private let commands: CommandBuffer
    private let usesScripts: Bool
    private let links: RedisLinks
    private let end: Deadline
    private(set) var routing: ClusterRouting
    private var state = State.opening(0)
    /// Whether the server of a part of this round could not be asked.
    private var hasFailed: [Bool]

    /// Who answered each command; nil if nobody did.
    private(set) var servers: [RedisLink?]
    /// The one who has answered everything at once; its answers stay where they are.
    private(set) var only: RedisLink?
    /// The answers in the order in which they came, and where the one to each command is.
    private var kept = ReplyArena()
    private var positions: [Int]
    private var failure: Failure?

    init(_ commands: CommandBuffer, usesScripts: Bool, slots: ClusterSlots, links: RedisLinks, until end: Deadline) {
        self.commands = commands
        self.usesScripts = usesScripts
        self.links = links
        self.end = end
        routing = ClusterRouting(commands, slots: slots)
        hasFailed = Array(repeating: false, count: routing.parts.count)
        servers = Array(repeating: nil, count: commands.commandCount)
        positions = Array(repeating: 0, count: commands.commandCount)
        fail(routing.unplaced, .redisUnreachable("No server has the slot of a key."))
    }

    /// The answers, in the order of the commands, and where they begin.
    var replies: (arena: ReplyArena, start: Int) {
        if let only { return (only.replies, only.answer) }
        var ordered = ReplyArena()
        for position in positions { ordered.append(replyAt: position, of: kept) }
        return (ordered, 0)
    }

    /// Returns what it waits for, or nil when every command has its answer. Fails if none has one of a server.
    func advance(_ now: Int64) throws(Failure) -> Wait? {
        while true {
            switch state {
            case .opening(let index):
                guard routing.parts.indices.contains(index) else {
                    for index in routing.parts.indices where !hasFailed[index] { send(index, now) }
                    state = .answering(0)
                    continue
                }
                if let wait = open(index, now) { return wait }
                state = .opening(index &+ 1)
            case .answering(let index):
                guard routing.parts.indices.contains(index) else {
                    beginNextRound(now)
                    continue
                }
                if !hasFailed[index], let wait = answer(of: index, now) { return wait }
                state = .answering(index &+ 1)
            case .pausing(let pauseEnd):
                if let remaining = pauseEnd.remaining(now) { return .timer(remaining) }
                state = .opening(0)
            case .done:
                if let failure, only == nil, servers.allSatisfy({ $0 == nil }) { throw failure }
                return nil
            }
        }
    }

    // MARK: A round

    private func open(_ index: Int, _ now: Int64) -> Wait? {
        let link = links[routing.parts[index].place]
        do throws(Failure) {
            if link.isIdle || link.isClosed { try link.open(at: now) }
            return try link.advance(now)
        } catch {
            failPart(index, error)
            return nil
        }
    }

    private func send(_ index: Int, _ now: Int64) {
        let part = routing.parts[index]
        let link = links[part.place]
        do throws(Failure) {
            try link.send(usesScripts: usesScripts, isAsking: part.isAsking, at: now) { buffer in
                if part.commands.count == commands.commandCount { return buffer.append(commandsOf: commands) }
                for command in part.commands { buffer.append(command, of: commands) }
            }
            // Sends what the socket takes; for the answer it is waited when its turn comes.
            _ = try link.advance(now)
        } catch {
            failPart(index, error)
        }
    }

    private func answer(of index: Int, _ now: Int64) -> Wait? {
        let link = links[routing.parts[index].place]
        do throws(Failure) {
            if let wait = try link.advance(now) { return wait }
            take(routing.parts[index], link)
        } catch {
            failPart(index, error)
        }
        return nil
    }

    private func take(_ part: ClusterRouting.Part, _ link: RedisLink) {
        var positions: [(command: Int, position: Int)] = []
        var position = link.answer
        for (offset, command) in part.commands.enumerated() {
            if offset > 0 { position = link.position(after: position) }
            if let error = link.replies.error(at: position), routing.follow(error, to: command, of: part) { continue }
            servers[command] = link
            positions.append((command, position))
        }
        if positions.count == commands.commandCount, !part.isAsking { return only = link }
        for (command, position) in positions {
            self.positions[command] = kept.count
            kept.append(replyAt: position, of: link.replies)
        }
    }

    private func beginNextRound(_ now: Int64) {
        if routing.openCount > 0, end.remaining(now) == nil {
            fail(routing.giveUp(), .redisUnreachable("A slot is on its way between servers."))
        }
        switch routing.nextRound() {
        case .atOnce: state = .opening(0)
        case .afterPause: state = .pausing(until: Deadline(after: Self.pause, from: now))
        case nil: state = .done
        }
        hasFailed = Array(repeating: false, count: routing.parts.count)
    }

    // MARK: Failures

    private func failPart(_ index: Int, _ failure: Failure) {
        hasFailed[index] = true
        routing.partFailed()
        fail(routing.parts[index].commands, failure)
    }

    private func fail(_ commands: [Int], _ failure: Failure) {
        for command in commands {
            self.failure = failure
            positions[command] = kept.count
            Array(failure.asRedisError.utf8).withUnsafeBytes { kept.appendText($0, isError: true) }
        }
    }
}
