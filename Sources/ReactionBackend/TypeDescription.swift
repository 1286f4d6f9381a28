import CReactionsBoundary
import ReactionModel
import RedisStore

/// A copy of what C knows about an entity type.
final class TypeDescription {
    let name: String
    let kinds: [Kind]
    /// The bits of all kinds.
    let flags: Int32
    let userMapKey: KeyTemplate
    let entityKey: KeyTemplate
    let shardCount: Int32
    let userMapLimit: Int32
    let userMapTTL: Int32
    let userMapMaximumAge: Int32
    private let serial: UInt64
    private let systemIdentifier: UInt64
    private let timeline: UInt32
    private let epoch: Int64
    /// What follows the key in a command that reads counts: the fields of all kinds, and that of the users.
    let kindArguments: [UInt8]
    let userArguments: [UInt8]
    /// As ClickHouse's queries name it.
    let entityType: EntityType
    /// The stamps that were asked for, by the history in them.
    private var stamps: [[UInt8]: Stamp] = [:]
    /// More servers than a cluster has; histories that are past are forgotten with the rest.
    private static let mostStamps = 1_000

    init(_ type: rx_type) throws(Failure) {
        guard let name = type.name, let userMapKey = type.user_map_template, let entityKey = type.entity_template
        else { throw .brokenContract("An entity type is incomplete.") }
        do throws(KeyTemplate.Problem) {
            self.userMapKey = try KeyTemplate(String(cString: userMapKey), required: "<user>")
            self.entityKey = try KeyTemplate(String(cString: entityKey), required: "<entity>")
        } catch {
            throw .notConfigured("a key template of an entity type is not valid", detail: error.rawValue)
        }
        self.name = String(cString: name)
        let kinds = UnsafeBufferPointer(start: type.kinds, count: type.kinds == nil ? 0 : type.kind_count).compactMap {
            kind in
            kind.name.map { Kind(name: String(cString: $0), flag: kind.flag) }
        }
        self.kinds = kinds
        flags = kinds.reduce(0) { $0 | $1.flag }
        kindArguments = CommandBuffer.countsArguments(kinds.map(\.name))
        userArguments = CommandBuffer.countsArguments(["\(EntityField.users)"])
        entityType = EntityType(
            typeID: 0, name: self.name, mode: .multi, phase: .native, kinds: kinds, userMapKey: self.userMapKey,
            entityKey: self.entityKey, shardCount: type.shard_count, epoch: type.epoch)
        shardCount = type.shard_count
        userMapLimit = type.user_map_limit
        userMapTTL = type.user_map_ttl_s
        userMapMaximumAge = type.user_map_max_age_s
        serial = type.serial
        systemIdentifier = type.system_identifier
        timeline = type.timeline
        epoch = type.epoch
    }

    /// Whether this is still a copy of the type.
    func describes(_ type: rx_type) -> Bool {
        serial == type.serial && timeline == type.timeline && systemIdentifier == type.system_identifier
    }

    func userMapKey(of userID: Int64, _ keys: KeySpace) -> [UInt8] {
        keys.key(userMapKey, id: userID, shardCount: shardCount)
    }

    /// Of what is kept by the server of this history.
    func stamp(redisHistory: [UInt8]) -> Stamp {
        if let stamp = stamps[redisHistory] { return stamp }
        if stamps.count >= Self.mostStamps { stamps = [:] }
        let made = Stamp(
            redisHistory: redisHistory, systemIdentifier: systemIdentifier, timeline: timeline, epoch: epoch)
        stamps[redisHistory] = made
        return made
    }
}
