public import ReactionModel
public import RedisStore

/// What can be wrong with a key of Redis that this database has made.
public enum CacheFault: String, CaseIterable, Codable, Sendable {
    /// A key has another type than it must have: somebody else has written it.
    case wrongType = "wrong_type"
    /// A list or a sample without counts.
    case noCounts = "no_counts"
    /// Counts without what belongs to them: the list, or the sample, total and flag of a viral entity.
    case missingPart = "missing_part"
    /// The list, or sample, is of another life of the entity.
    case wrongNonce = "wrong_nonce"
    /// Keys of the other tier.
    case leftover
    /// A sample that has lost so many that a first page has to ask ClickHouse.
    case shrunkSample = "shrunk_sample"
    /// The counts are not those of ClickHouse, or disagree among themselves.
    case drift
    /// The deltas of ClickHouse are not the sum of its events. Nothing in Redis is to blame.
    case wrongDeltas = "wrong_deltas"
    /// A watermark, or a list of entities, of a type or shard that does not exist.
    case orphan

    public enum Repair: Sendable {
        /// Every key of the entity is dropped, and the agent asked to build it anew.
        case rebuild
        /// What should not be there is dropped.
        case drop
        /// An operator's.
        case none
    }

    public var repair: Repair {
        switch self {
        case .wrongType, .missingPart, .wrongNonce, .shrunkSample, .drift: .rebuild
        case .noCounts, .leftover, .orphan: .drop
        case .wrongDeltas: .none
        }
    }
}

/// What there is of an entity in Redis, as far as Redis alone tells.
public enum EntityState: Equatable, Sendable {
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

    private static func judge(_ look: EntityLook) -> EntityState {
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

/// What an entity's counts should be, by ClickHouse.
public struct EntityTruth: Equatable, Sendable {
    /// By flag; kinds without a reaction are left out.
    public var counts: [Int32: Int64]
    /// Users with any kind; nil if it was not asked for.
    public var users: Int64?

    public init(counts: [Int32: Int64] = [:], users: Int64? = nil) {
        self.counts = counts
        self.users = users
    }

    /// What differs in the counts, as `Like 5, ClickHouse 6`; nil if they agree.
    public func difference(from look: EntityLook, _ type: EntityType) -> String? {
        var problems: [String] = []
        func compare(_ name: String, _ expected: Int64) {
            // A kind that nobody has need not be there.
            let found = look.fields[name] ?? "0"
            if found != "\(expected)" { problems.append("\(name) \(found), ClickHouse \(expected)") }
        }
        for kind in type.kinds { compare(kind.name, counts[kind.flag] ?? 0) }
        compare("total", counts.values.reduce(0, &+))
        if let users, look.fields["users"] != nil { compare("users", users) }
        let known = Set(type.kinds.map(\.name)).union(["total", "users"])
        for (name, value) in look.fields.sorted(by: { $0.key < $1.key }) where !known.contains(name) {
            problems.append("\(name) \(value), no kind of the type")
        }
        return problems.isEmpty ? nil : problems.joined(separator: "; ")
    }

    /// How the deltas differ from the events; nil if they agree.
    public func difference(fromEvents events: EntityTruth, _ type: EntityType) -> String? {
        let problems = type.kinds.compactMap { kind in
            let (deltas, events) = (counts[kind.flag] ?? 0, events.counts[kind.flag] ?? 0)
            return deltas == events ? nil : "\(kind.name) \(deltas) by deltas, \(events) by events"
        }
        return problems.isEmpty ? nil : problems.joined(separator: "; ")
    }
}
