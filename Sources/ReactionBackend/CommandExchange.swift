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

    private var commands = CommandBuffer()
    private var state = State.idle
    /// The last text that was lent to C.
    private var lent: LentArray<UInt8>?

    init(_ session: Session, _ compose: (inout CommandBuffer) -> Void) {
        super.init(session)
        compose(&commands)
    }

    override func advance(at now: Int64) -> Step {
        do throws(Failure) {
            while true {
                switch state {
                case .idle:
                    if commands.commandCount == 0 { return .done }
                    try startRedis { link throws(Failure) in try link.open(at: now) }
                    state = .opening
                case .opening:
                    if let wait = try pollRedis(at: now) { return .wait(wait) }
                    try startRedis { link throws(Failure) in
                        try link.send(at: now) { $0.append(commandsOf: commands) }
                    }
                    state = .talking
                case .talking:
                    if let wait = try pollRedis(at: now) { return .wait(wait) }
                    for index in 0..<commands.commandCount {
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
        let keys = session.keys
        return CommandExchange(session) { commands in
            if let userID {
                commands.begin("UNLINK", arguments: 1)
                commands.append(keys.key(type.userMapKey, id: userID, shardCount: type.shardCount))
            }
            guard let entityID else { return }
            for suffix in KeySpace.entitySuffixes {
                commands.begin("UNLINK", arguments: 1)
                commands.append(keys.key(type.entityKey, id: entityID, shardCount: type.shardCount, suffix: suffix))
            }
        }
    }

    /// How many compared reads of a type are kept until somebody takes them.
    private static let mostCompared: Int64 = 10_000

    static func noteCompared(
        _ session: Session, _ type: UnsafePointer<rx_type>?, _ record: UnsafeRawBufferPointer
    ) throws(Failure) -> CommandExchange {
        let key = session.keys.comparedReads(of: try session.type(type).name)
        return CommandExchange(session) { commands in
            commands.begin("RPUSH", arguments: 2)
            commands.append(key)
            commands.append(record)
            commands.begin("LTRIM", arguments: 3)
            commands.append(key)
            commands.append(-mostCompared)
            commands.append(-1 as Int64)
        }
    }

    /// The answer to the second command has the records.
    static func takeCompared(
        _ session: Session, _ type: UnsafePointer<rx_type>?, dropping drop: Int64, taking take: Int64
    ) throws(Failure) -> CommandExchange {
        let key = session.keys.comparedReads(of: try session.type(type).name)
        return CommandExchange(session) { commands in
            commands.begin("LTRIM", arguments: 3)
            commands.append(key)
            commands.append(max(drop, 0))
            commands.append(-1 as Int64)
            commands.begin("LRANGE", arguments: 3)
            commands.append(key)
            commands.append(0 as Int64)
            commands.append(max(take, 1) - 1)
        }
    }
}
