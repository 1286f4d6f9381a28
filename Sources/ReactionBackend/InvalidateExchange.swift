import CReactionsBoundary
import RedisStore

/// Drops a user's map, an entity's keys, or both.
final class InvalidateExchange: Exchange {
    private enum State {
        /// Can transition to: opening.
        case idle
        /// Can transition to: unlinking.
        case opening
        case unlinking
    }

    private var commands = CommandBuffer()
    private var state = State.idle

    init(_ session: Session, _ type: UnsafePointer<rx_type>?, userID: Int64?, entityID: Int64?) throws(Failure) {
        let type = try session.type(type)
        let keys = session.keys
        if let userID {
            commands.begin("UNLINK", arguments: 1)
            commands.append(keys.key(type.userMapKey, id: userID, shardCount: type.shardCount))
        }
        if let entityID {
            for suffix in KeySpace.entitySuffixes {
                commands.begin("UNLINK", arguments: 1)
                commands.append(keys.key(type.entityKey, id: entityID, shardCount: type.shardCount, suffix: suffix))
            }
        }
        super.init(session)
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
                    try startRedis { link throws(Failure) in try link.send(at: now) { $0.append(commandsOf: commands) }
                    }
                    state = .unlinking
                case .unlinking:
                    if let wait = try pollRedis(at: now) { return .wait(wait) }
                    let redis = session.redis
                    for position in redis.answer..<redis.answer + commands.commandCount {
                        if let error = redis.replies.error(at: position) { throw .redis(error: error) }
                    }
                    return .done
                }
            }
        } catch {
            return .failed(error)
        }
    }
}
