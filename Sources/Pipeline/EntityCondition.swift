public import RedisStore

/// What there is of an entity in Redis, as far as Redis alone tells.
public enum EntityCondition: Equatable, Sendable {
    case absent
    /// Made in another life of Redis or PostgreSQL, or under another epoch: absent for everybody, and gone when its time has come.
    case stale
    case kept(EntityTier)
    case faulty(CacheFault, String)

    /// Below half of a whole one a sample has shrunk.
    public static let wholeSample = 1_000

    public init(_ look: EntityLook) {
        self = Self.judge(look)
    }

    /// What is there and belongs to nothing, or to the other tier.
    public static func superfluous(_ look: EntityLook) -> Set<EntityLook.Part> {
        look.present.subtracting(
            look.marker.map { parts(of: $0.tier) } ?? (look.present.contains(.counts) ? look.present : []))
    }

    private static func parts(of tier: EntityTier) -> Set<EntityLook.Part> {
        tier == .regular ? [.counts, .reactions] : [.counts, .total, .viral, .sample]
    }

    private static func judge(_ look: EntityLook) -> EntityCondition {
        if look.present.isEmpty { return .absent }
        if !look.wrong.isEmpty { return .faulty(.wrongType, names(look.wrong)) }
        guard look.present.contains(.counts) else { return .faulty(.noCounts, names(look.present)) }
        guard let marker = look.marker else { return .stale }
        let own = parts(of: marker.tier)
        let missing = own.subtracting(look.present)
        if !missing.isEmpty { return .faulty(.missingPart, names(missing)) }
        let list = marker.tier == .regular ? look.reactions : look.sample
        guard let header = list.header, let count = list.count else {
            return .faulty(.wrongNonce, names([marker.tier == .regular ? .reactions : .sample]))
        }
        if let problem = disagreement(look, marker.tier, header, count) { return .faulty(.drift, problem) }
        let foreign = look.present.subtracting(own)
        if !foreign.isEmpty { return .faulty(.leftover, names(foreign)) }
        if marker.tier == .viral, header.floor != nil, count < wholeSample / 2 {
            return .faulty(.shrunkSample, "\(count) users")
        }
        return .kept(marker.tier)
    }

    /// Where the keys of one entity contradict each other.
    private static func disagreement(
        _ look: EntityLook, _ tier: EntityTier, _ header: ReactionList, _ count: Int
    ) -> String? {
        let total = look.fields["total"]
        if tier == .viral {
            if look.total != total { return "total_reactions \(look.total), total \(total ?? "none")" }
            if look.flag != "1" { return "viral \(look.flag)" }
        } else {
            if header.floor != nil { return "a list of a regular entity has a floor" }
            if let users = look.fields["users"], users != "\(count)" { return "users \(users), in the list \(count)" }
        }
        return nil
    }

    private static func names(_ parts: Set<EntityLook.Part>) -> String {
        parts.sorted { $0.rawValue < $1.rawValue }.map { "\(KeySpace.entitySuffixes[$0.rawValue])".dropFirst() }
            .joined(separator: ", ")
    }
}
