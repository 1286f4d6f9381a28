internal import ReactionModel

/// Stamps by type and server, each made once.
struct Stamps {
    let systemIdentifier: UInt64
    let timeline: UInt32
    let catalog: [Int16: EntityType]
    private var made: [Key: Stamp] = [:]

    private struct Key: Hashable {
        var typeID: Int16
        var history: [UInt8]
    }

    init(systemIdentifier: UInt64, timeline: UInt32, catalog: [Int16: EntityType]) {
        self.systemIdentifier = systemIdentifier
        self.timeline = timeline
        self.catalog = catalog
    }

    subscript(typeID: Int16, history: [UInt8]) -> Stamp {
        mutating get {
            let key = Key(typeID: typeID, history: history)
            if let stamp = made[key] { return stamp }
            let stamp = Stamp(
                redisHistory: history, systemIdentifier: systemIdentifier, timeline: timeline,
                epoch: catalog[typeID]?.epoch ?? 0)
            made[key] = stamp
            return stamp
        }
    }
}
