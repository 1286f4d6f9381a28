import CReactionsBoundary
import ReactionModel
import RedisStore

/// What Redis keeps of one entity: its tier, and how old its counts are.
final class EntityStatusExchange: EntityExchange {
    private let entityID: Int64
    private(set) var status = rx_entity_status()

    init(_ session: Session, _ type: UnsafePointer<rx_type>?, entityID: Int64) throws(Failure) {
        self.entityID = entityID
        super.init(session, try session.type(type), Self.question(session, asksTruth: false))
    }

    override func compose(_ commands: inout CommandBuffer) {
        commands.begin("HMGET", arguments: 3)
        commands.append(
            key: session.keys.key(
                type.entityKey, id: entityID, shardCount: type.shardCount, suffix: KeySpace.countsSuffix))
        commands.append(EntityMarker.field)
        commands.append(EntityField.tier)
    }

    override func takeReplies() throws(Failure) -> Finding {
        let replies = session.redis.replies
        let position = session.redis.answer
        if let error = replies.error(at: position) { throw .redis(error: error) }
        guard case .array(2) = replies[position] else {
            throw .redisNonsense("The counts of an entity do not have the form of counts.")
        }
        guard case .text(let range) = replies[position &+ 1],
            let marker = EntityMarker(replies.cursor(range), stamp: stamp(of: 0))
        else { return .some(.gaps) }
        status.tier = marker.tier.rawValue
        status.counted_batch = marker.counted.batch.rawValue
        status.built_at = Self.time(marker.builtAt)
        guard case .text(let tierRange) = replies[position &+ 2] else { return .some(.everything) }
        var cursor = replies.cursor(tierRange)
        if let since = cursor.decimal(), cursor.skip(UInt8(ascii: ":")) {
            status.tier_since = Self.time(since)
            // Of bytes that are characters in every encoding.
            let reason = replies.text(at: position &+ 2).drop { $0 != UInt8(ascii: ":") }.dropFirst().prefix {
                $0 >= UInt8(ascii: " ") && $0 <= UInt8(ascii: "~")
            }
            withUnsafeMutableBytes(of: &status.reason) { buffer in
                for (index, byte) in reason.prefix(buffer.count &- 1).enumerated() { buffer[index] = byte }
            }
        }
        return .some(.everything)
    }

    /// Unix seconds; 0 for what is no time.
    private static func time(_ seconds: Int64) -> Int64 { (0...Int64(UInt32.max)).contains(seconds) ? seconds : 0 }
}
