/// The scripts of user maps and entities (docs/internals.md), written in `Scripts/` and embedded at build.
public enum Script: Hashable, Sendable {
    /// Answers a miss with the map's nonce, and starts a map if there is none.
    case userMapMiss
    /// Stores what the truth said, if the map is still the one of the miss.
    case userMapFill
    /// Applies events.
    case userMapApply
    /// Refreshes the time to live.
    case userMapTouch
    /// Tells what there is of an entity.
    case entityLook
    /// Drops keys of an entity that is still the one that was looked at.
    case entityDrop
    /// Refreshes the time to live of an entity that is still the one that was looked at.
    case entityKeep

    public static let ofUserMaps: [Script] = [.userMapMiss, .userMapFill, .userMapApply, .userMapTouch]

    /// The text that `EVAL` and `SCRIPT LOAD` take.
    ///
    /// `allow-oom`: a full Redis has to take applies, else it would serve what they correct. (A script with a first line of this
    /// kind may also touch declared keys only, which a cluster needs.)
    public var source: [UInt8] {
        switch self {
        case .userMapMiss: Self.miss
        case .userMapFill: Self.fill
        case .userMapApply: Self.apply
        case .userMapTouch: Self.touch
        case .entityLook: Self.entityLookSource
        case .entityDrop: Self.entityDropSource
        case .entityKeep: Self.entityKeepSource
        }
    }

    private static let miss = assembled(PackageResources.user_map_miss_lua)
    private static let fill = assembled(PackageResources.user_map_fill_lua)
    private static let apply = assembled(PackageResources.user_map_apply_lua)
    private static let touch = assembled(PackageResources.user_map_touch_lua)

    private static let entityLookSource = headed(PackageResources.entity_look_lua)
    private static let entityDropSource = headed(PackageResources.entity_drop_lua)
    private static let entityKeepSource = headed(PackageResources.entity_keep_lua)

    private static func headed(_ body: [UInt8]) -> [UInt8] { Array("#!lua flags=allow-oom\n".utf8) + body }

    private static func assembled(_ body: [UInt8]) -> [UInt8] {
        headed(PackageResources.user_map_rules_lua + body)
    }
}
