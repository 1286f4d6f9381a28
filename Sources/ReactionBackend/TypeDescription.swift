import CReactionsBoundary
import ReactionModel
import RedisStore

/// A copy of what C knows about an entity type.
struct TypeDescription {
    var name: String
    var kinds: [Kind]
    var userMapKey: KeyTemplate
    var entityKey: KeyTemplate
    var shardCount: Int32
    var userMapLimit: Int32
    var userMapTTL: Int32
    var userMapMaximumAge: Int32
    private var systemIdentifier: UInt64
    private var timeline: UInt32
    private var epoch: Int64

    init(_ type: UnsafePointer<rx_type>?) throws(Failure) {
        guard let type = type?.pointee, let name = type.name, let userMapKey = type.user_map_template,
            let entityKey = type.entity_template
        else { throw .brokenContract("An entity type is incomplete.") }
        do throws(KeyTemplate.Problem) {
            self.userMapKey = try KeyTemplate(String(cString: userMapKey), required: "<user>")
            self.entityKey = try KeyTemplate(String(cString: entityKey), required: "<entity>")
        } catch {
            throw .notConfigured("a key template of an entity type is not valid", detail: error.rawValue)
        }
        self.name = String(cString: name)
        kinds = UnsafeBufferPointer(start: type.kinds, count: type.kinds == nil ? 0 : type.kind_count).compactMap {
            kind in
            kind.name.map { Kind(name: String(cString: $0), flag: kind.flag) }
        }
        shardCount = type.shard_count
        userMapLimit = type.user_map_limit
        userMapTTL = type.user_map_ttl_s
        userMapMaximumAge = type.user_map_max_age_s
        systemIdentifier = type.system_identifier
        timeline = type.timeline
        epoch = type.epoch
    }

    /// The bits of all kinds.
    var flags: Int32 { kinds.reduce(0) { $0 | $1.flag } }

    func userMap(of userID: Int64, _ keys: KeySpace, redisRunID: [UInt8]) -> UserMapAddress {
        UserMapAddress(
            key: keys.key(userMapKey, id: userID, shardCount: shardCount),
            stamp: Stamp(
                redisRunID: redisRunID, systemIdentifier: systemIdentifier, timeline: timeline, epoch: epoch))
    }
}
