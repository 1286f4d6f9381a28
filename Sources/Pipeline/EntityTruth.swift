public import ReactionModel
public import RedisStore

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
        let total = "\(EntityField.total)"
        let users = "\(EntityField.users)"
        compare(total, counts.values.reduce(0, &+))
        if let expected = self.users, look.fields[users] != nil { compare(users, expected) }
        let known = Set(type.kinds.map(\.name)).union([total, users])
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
