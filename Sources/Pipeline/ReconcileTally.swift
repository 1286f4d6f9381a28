/// What a look through Redis has found so far.
public struct ReconcileTally: Sendable {
    /// A class of keys or entities, or a fault, within a type; the type is empty for what belongs to none.
    public struct Key: Hashable, Sendable {
        public var entityType: String
        public var name: String
        public var isFault: Bool

        public init(entityType: String, name: String, isFault: Bool = false) {
            self.entityType = entityType
            self.name = name
            self.isFault = isFault
        }
    }

    public struct Count: Sendable {
        public var found: Int64 = 0
        public var repaired: Int64 = 0
    }

    public struct Finding: Sendable {
        public var key: String
        public var entityType: String
        public var entityID: Int64?
        public var fault: CacheFault
        public var detail: String
        public var isRepaired = false

        public init(key: String, entityType: String, entityID: Int64?, fault: CacheFault, detail: String) {
            self.key = key
            self.entityType = entityType
            self.entityID = entityID
            self.fault = fault
            self.detail = detail
        }
    }

    /// Of each class.
    public static let mostKept: Int64 = 1_000

    /// Keys that there are, about, and those that were looked at.
    public var expected: Int64 = 0
    public var scanned: Int64 = 0
    /// Entities whose counts were compared with ClickHouse.
    public var verified: Int64 = 0
    /// Entities whose time to live was refreshed.
    public var kept: Int64 = 0
    public private(set) var counts: [Key: Count] = [:]
    public private(set) var findings: [Finding] = []
    /// Of every shard of every type that is looked at.
    public var shards: [ShardUse.Key: ShardUse] = [:]

    public init() {}

    public var found: Int64 { counts.reduce(0) { $0 + ($1.key.isFault ? $1.value.found : 0) } }
    public var repaired: Int64 { counts.reduce(0) { $0 + $1.value.repaired } }

    public mutating func count(_ name: String, of entityType: String) {
        counts[Key(entityType: entityType, name: name), default: Count()].found += 1
    }

    public mutating func add(_ finding: Finding) {
        let key = Key(entityType: finding.entityType, name: finding.fault.rawValue, isFault: true)
        var count = counts[key] ?? Count()
        count.found += 1
        if finding.isRepaired { count.repaired += 1 }
        counts[key] = count
        if count.found <= Self.mostKept { findings.append(finding) }
    }
}
