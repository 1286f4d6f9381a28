internal import ClickHouseStore
internal import Pipeline
internal import PostgresSource
internal import ReactionModel

/// A conversation with ClickHouse about counts of entities. libcurl blocks, so the actor has a thread of its own.
actor EntityChecks {
    private let executor = QueueExecutor(label: "reactiond.clickhouse.counts")
    private let settings: ClickHouseSettings
    private var session: ClickHouseSession?

    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    init(_ settings: ClickHouseSettings) {
        self.settings = settings.patient()
    }

    /// By `reactionDeltas`; entities that nobody has reacted to are left out.
    func deltas(
        of subjects: [EntityCheck.Subject], _ type: EntityType, common: BatchNumber
    ) throws(SinkError) -> [Int64: EntityTruth] {
        let check = EntityCheck(type: type, common: common)
        return try truths(subjects) { check.deltas(of: $0) }
    }

    /// By the events themselves.
    func events(
        of subjects: [EntityCheck.Subject], _ type: EntityType, common: BatchNumber
    ) throws(SinkError) -> [Int64: EntityTruth] {
        let check = EntityCheck(type: type, common: common)
        return try truths(subjects) { check.events(of: $0) }
    }

    private func truths(
        _ subjects: [EntityCheck.Subject], _ query: (ArraySlice<EntityCheck.Subject>) -> String
    ) throws(SinkError) -> [Int64: EntityTruth] {
        var truths: [Int64: EntityTruth] = [:]
        for start in stride(from: 0, to: subjects.count, by: EntityCheck.idsPerQuery) {
            let some = subjects[start..<min(start + EntityCheck.idsPerQuery, subjects.count)]
            let rows = try forgettingSession { session throws(SinkError) in
                try session.client.rows(query(some), settings: Removal.settings(session.abilities))
            }
            guard let counts = EntityCheck.counts(rows) else { throw .nonsense }
            for count in counts {
                if count.flag == 0 {
                    truths[count.entityID, default: EntityTruth()].users = count.count
                } else {
                    truths[count.entityID, default: EntityTruth()].counts[count.flag] = count.count
                }
            }
        }
        return truths
    }

    private func forgettingSession<Answer>(
        _ body: (ClickHouseSession) throws(SinkError) -> Answer
    ) throws(SinkError) -> Answer {
        do {
            let session = if let session { session } else { try ClickHouseSession(settings) }
            self.session = session
            return try body(session)
        } catch {
            session = nil
            throw error
        }
    }
}
