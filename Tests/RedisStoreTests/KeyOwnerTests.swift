import ReactionModel
import RedisStore
import Testing

@Suite struct KeyOwnerTests {
    private let owners: KeyOwners
    private let keys = KeySpace(prefix: Array("p:".utf8))
    private let post: EntityType

    init() throws {
        func type(_ id: Int16, _ name: String, _ user: String, _ entity: String) throws -> EntityType {
            EntityType(
                typeID: id, name: name, mode: .multi, phase: .native, kinds: [],
                userMapKey: try KeyTemplate(user, required: "<user>"),
                entityKey: try KeyTemplate(entity, required: "<entity>"), shardCount: 100, epoch: 0)
        }
        post = try type(2, "Post", "user:<shard>:<user>:reactions", "post:<shard>:<entity>")
        owners = KeyOwners(keys: keys, types: [try type(1, "Image", "reactions:<user>", "image-<entity>"), post])
    }

    @Test(arguments: [
        ("p:post:7:107:reaction_counts", KeyOwner.entity(typeID: 2, id: 107, part: .counts)),
        ("p:post:7:107:reactions", .entity(typeID: 2, id: 107, part: .reactions)),
        ("p:post:7:107:total_reactions", .entity(typeID: 2, id: 107, part: .total)),
        ("p:image--5:sample", .entity(typeID: 1, id: -5, part: .sample)),
        ("p:image-5:viral", .entity(typeID: 1, id: 5, part: .viral)),
        ("p:image--9223372036854775808:viral", .entity(typeID: 1, id: .min, part: .viral)),
        ("p:user:7:107:reactions", .userMap(typeID: 2, id: 107)), ("p:reactions:12", .userMap(typeID: 1, id: 12)),
        // The wrong shard, leading zeros, no number, too large a number, another prefix.
        ("p:post:8:107:reactions", .unknown), ("p:post:7:0107:reactions", .unknown), ("p:post:x:reactions", .unknown),
        ("p:image-9223372036854775808:viral", .unknown), ("q:post:7:107:reactions", .unknown), ("", .unknown),
        ("p:reactions:applied:Post:99", .ours(typeID: 2, type: "string")), ("p:reactions:applied:Post:100", .orphan),
        ("p:reactions:applied:Gone:1", .orphan), ("p:reactions:wanted:Image", .ours(typeID: 1, type: "zset")),
        ("p:reactions:wanted:Gone", .orphan), ("p:reactions:compared:Gone", .orphan),
        ("p:reactions:compared:Post", .ours(typeID: 2, type: "list")),
    ])
    func `a key is known by its name`(key: String, owner: KeyOwner) {
        #expect(owners.owner(of: Array(key.utf8)) == owner)
    }

    @Test func `every key that is made is known`() {
        for id in [0, 1, -1, 99, 100, .max, .min] as [Int64] {
            for (part, suffix) in zip(EntityLook.Part.allCases, KeySpace.entitySuffixes) {
                let key = keys.key(post.entityKey, id: id, shardCount: 100, suffix: suffix)
                #expect(owners.owner(of: key) == .entity(typeID: 2, id: id, part: part))
            }
        }
    }
}
