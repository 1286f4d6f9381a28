internal import Pipeline
internal import ReactionModel
internal import RedisStore

/// Tells flags as of before a chunk.
typealias AskFlags = @Sendable ([ReactionKey]) async throws -> [ReactionKey: KnownFlags]

/// Entities that are to be read of ClickHouse, and those that are being read, with what was counted of them since. No I/O.
struct Rebuilds {
    /// What a chunk changes of an entity that is being read.
    struct Noted {
        var chunk: CountedChunk
        var change: EntityChange
        var ask: AskFlags
    }

    private struct Rebuild {
        /// The reading is as of it.
        var base: BatchNumber
        var changes: [Noted] = []
        /// It has gone meanwhile.
        var isVoid = false
    }

    /// Whether also if it is there.
    private var wanted: [EntityID: Bool] = [:]
    private var open: [EntityID: Rebuild] = [:]

    // MARK: Wanted

    var wantedCount: Int { wanted.count }

    func wanted(_ limit: Int) -> [EntityID] { Array(wanted.keys.prefix(limit)) }

    mutating func want(_ id: EntityID, replaces: Bool) {
        wanted[id] = wanted[id] ?? false || replaces
    }

    /// Whether it is to be read even if it is there.
    func replaces(_ id: EntityID) -> Bool { wanted[id] ?? false }

    mutating func wantNoMore(_ ids: [EntityID]) {
        for id in ids { wanted[id] = nil }
    }

    // MARK: Being read

    func isOpen(_ id: EntityID) -> Bool { open[id] != nil }

    mutating func begin(_ id: EntityID, asOf base: BatchNumber) {
        open[id] = Rebuild(base: base)
    }

    /// Notes what is behind the reading, once.
    mutating func note(_ change: EntityChange, _ chunk: CountedChunk, _ ask: @escaping AskFlags) {
        guard let rebuild = open[change.id], rebuild.base < chunk.batch,
            rebuild.changes.last.map({ $0.chunk < chunk }) ?? true
        else { return }
        open[change.id]?.changes.append(Noted(chunk: chunk, change: change, ask: ask))
    }

    /// What was noted as number `index`, if the reading is still good.
    func noted(_ index: Int, of id: EntityID) -> Noted? {
        guard let rebuild = open[id], !rebuild.isVoid, index < rebuild.changes.count else { return nil }
        return rebuild.changes[index]
    }

    /// The entity is gone by a chunk, if it was read as of a batch before.
    mutating func void(_ id: EntityID, by chunk: CountedChunk) {
        if let rebuild = open[id], rebuild.base < chunk.batch { void(id) }
    }

    mutating func void(_ id: EntityID) {
        open[id]?.isVoid = true
    }

    /// Nothing that was read of the types counts any more.
    mutating func void(_ types: Set<Int16>) {
        for id in open.keys where types.contains(id.typeID) { void(id) }
    }

    /// A new epoch has made everything of the types absent.
    mutating func forget(_ types: Set<Int16>) {
        void(types)
        wanted = wanted.filter { !types.contains($0.key.typeID) }
    }

    /// The batch of the reading, if it is still good; nil if it is void, or was never begun.
    mutating func end(_ id: EntityID) -> BatchNumber? {
        open.removeValue(forKey: id).flatMap { $0.isVoid ? nil : $0.base }
    }
}
