import CReactionsBoundary
import RedisStore

/// Sends commands in one round trip; fails with the first error that Redis answers.
final class CommandExchange: Exchange {
    private enum State {
        /// Can transition to: opening.
        case idle
        /// Can transition to: talking.
        case opening
        /// Can transition to: done.
        case talking
        case done
    }

    private let compose: (KeySpace, inout CommandBuffer) -> Void
    private var commandCount = 0
    private var state = State.idle
    /// The last text that was lent to C.
    private var lent: LentArray<UInt8>?

    /// - Parameter compose: appends the commands; called when it is known how Redis names its keys.
    init(_ session: Session, _ compose: @escaping (KeySpace, inout CommandBuffer) -> Void) {
        self.compose = compose
        super.init(session)
    }

    override func advance(at now: Int64) -> Step {
        do throws(Failure) {
            while true {
                switch state {
                case .idle:
                    try startRedis { redis throws(Failure) in try redis.open(at: now) }
                    state = .opening
                case .opening:
                    if let wait = try pollRedis(at: now) { return .wait(wait) }
                    var commands = CommandBuffer()
                    compose(session.keys, &commands)
                    commandCount = commands.commandCount
                    if commandCount == 0 {
                        state = .done
                        continue
                    }
                    try startRedis { redis throws(Failure) in
                        try redis.send(at: now) { $0.append(commandsOf: commands) }
                    }
                    state = .talking
                case .talking:
                    if let wait = try pollRedis(at: now) { return .wait(wait) }
                    for index in 0..<commandCount {
                        if let error = session.redis.replies.error(at: position(of: index)) {
                            throw .redis(error: error)
                        }
                    }
                    state = .done
                case .done:
                    return .done
                }
            }
        } catch {
            return .failed(error)
        }
    }

    /// A text of an array that a command was answered with; nil behind its end. Valid until the next one is asked for, and only as
    /// long as nothing else is said on the connection.
    func element(_ index: Int, of command: Int) -> (start: UnsafePointer<CChar>, length: Int)? {
        let replies = session.redis.replies
        let reply = position(of: command)
        guard case .done = state, case .array(let count) = replies[reply], index >= 0, index < count else { return nil }
        let text = LentArray(Array(replies.text(at: reply &+ 1 &+ index)))
        lent = text
        return text.start.map { (UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self), text.count) }
    }

    private func position(of command: Int) -> Int {
        var position = session.redis.answer
        for _ in 0..<command { position = session.redis.replies.position(after: position) }
        return position
    }
}

extension CommandExchange {
    /// Drops a user's map, an entity's keys, or both.
    static func invalidate(
        _ session: Session, _ type: UnsafePointer<rx_type>?, userID: Int64?, entityID: Int64?
    ) throws(Failure) -> CommandExchange {
        let type = try session.type(type)
        return CommandExchange(session) { keys, commands in
            if let userID {
                commands.begin("UNLINK", arguments: 1)
                commands.append(key: type.userMapKey(of: userID, keys))
            }
            guard let entityID else { return }
            for suffix in KeySpace.entitySuffixes {
                commands.begin("UNLINK", arguments: 1)
                commands.append(
                    key: keys.key(type.entityKey, id: entityID, shardCount: type.shardCount, suffix: suffix))
            }
        }
    }

    /// How many compared reads of a type are kept until somebody takes them.
    private static let mostCompared: Int64 = 10_000

    static func noteCompared(
        _ session: Session, _ type: UnsafePointer<rx_type>?, _ record: UnsafeRawBufferPointer
    ) throws(Failure) -> CommandExchange {
        let name = try session.type(type).name
        let copy = Array(record)
        return CommandExchange(session) { keys, commands in
            let key = keys.comparedReads(of: name)
            commands.begin("RPUSH", arguments: 2)
            commands.append(key: key)
            commands.append(copy)
            commands.begin("LTRIM", arguments: 3)
            commands.append(key: key)
            commands.append(-mostCompared)
            commands.append(-1 as Int64)
        }
    }

    /// The answer to the second command has the records.
    static func takeCompared(
        _ session: Session, _ type: UnsafePointer<rx_type>?, dropping drop: Int64, taking take: Int64
    ) throws(Failure) -> CommandExchange {
        let name = try session.type(type).name
        return CommandExchange(session) { keys, commands in
            let key = keys.comparedReads(of: name)
            commands.begin("LTRIM", arguments: 3)
            commands.append(key: key)
            commands.append(max(drop, 0))
            commands.append(-1 as Int64)
            commands.begin("LRANGE", arguments: 3)
            commands.append(key: key)
            commands.append(0 as Int64)
            commands.append(max(take, 1) - 1)
        }
    }
}
