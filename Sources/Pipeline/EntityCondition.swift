public import ReactionModel
public import RedisStore

/// What there is of an entity in Redis, as far as Redis alone tells.
public enum EntityCondition: Equatable, Sendable {
    case absent
    /// Made in another life of Redis or PostgreSQL, or under another epoch: absent for everybody, and gone when its time has come.
    case stale
    case kept(EntityTier)
    case faulty(CacheFault, String)

    public init(_ look: EntityLook, of type: EntityType) {
        self = Self.judge(look, type)
    }

    /// What is there and belongs to nothing, or to the other tier.
    public static func superfluous(_ look: EntityLook) -> Set<EntityLook.Part> {
        look.present.subtracting(
            look.marker.map { parts(of: $0.tier) } ?? (look.present.contains(.counts) ? look.present : []))
    }

    private static func parts(of tier: EntityTier) -> Set<EntityLook.Part> {
        tier == .regular ? [.counts, .reactions] : [.counts, .total, .viral, .sample]
    }

    private static func judge(_ look: EntityLook, _ type: EntityType) -> EntityCondition {
        if look.present.isEmpty { return .absent }
        if !look.wrong.isEmpty { return .faulty(.wrongType, names(look.wrong)) }
        guard look.present.contains(.counts) else { return .faulty(.noCounts, names(look.present)) }
        guard let marker = look.marker else { return .stale }
        let own = parts(of: marker.tier)
        let missing = own.subtracting(look.present)
        if !missing.isEmpty { return .faulty(.missingPart, names(missing)) }
        let found = marker.tier == .regular ? look.reactions : look.sample
        guard let list = found.list, let users = found.count else {
            return .faulty(.wrongNonce, names([marker.tier == .regular ? .reactions : .sample]))
        }
        if marker.tier == .viral, let problem = copies(look) { return .faulty(.drift, problem) }
        if marker.tier == .regular, list.floor != nil {
            return .faulty(.drift, "the list of a regular entity has a floor")
        }
        if list.floor == nil, let problem = sums(look, type, users, found.counts) { return .faulty(.drift, problem) }
        let foreign = look.present.subtracting(own)
        return foreign.isEmpty ? .kept(marker.tier) : .faulty(.leftover, names(foreign))
    }

    /// Where the total and the flag that stand alone are not those of the counts.
    private static func copies(_ look: EntityLook) -> String? {
        let total = look.fields["\(EntityField.total)"]
        if look.total != total { return "total_reactions \(look.total), total \(total ?? "none")" }
        return look.flag == "1" ? nil : "viral \(look.flag)"
    }

    /// Where the counts are not those of the list, which has everybody.
    private static func sums(
        _ look: EntityLook, _ type: EntityType, _ listed: Int, _ counts: [Int64]?
    ) -> String? {
        if let users = look.fields["\(EntityField.users)"], users != "\(listed)" {
            return "users \(users), in the list \(listed)"
        }
        guard let counts else { return nil }
        for kind in type.kinds {
            // A kind that nobody has need not be there.
            let count = look.fields[kind.name] ?? "0"
            let listed = counts[kind.flag.trailingZeroBitCount]
            if count != "\(listed)" { return "\(kind.name) \(count), in the list \(listed)" }
        }
        return nil
    }

    private static func names(_ parts: Set<EntityLook.Part>) -> String {
        parts.sorted { $0.rawValue < $1.rawValue }.map { "\(KeySpace.entitySuffixes[$0.rawValue])".dropFirst() }
            .joined(separator: ", ")
    }
}
