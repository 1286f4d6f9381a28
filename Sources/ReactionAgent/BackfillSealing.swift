internal import ClickHouseStore
internal import Logging
internal import Pipeline
internal import PostgresSource
internal import ReactionModel

/// Makes ClickHouse agree with itself after a table was read: state, sums and deltas (`BackfillQuery` has the rules).
///
/// Slice by slice, then the whole. Every step may be done again: it adds what is missing. What a step that was cut off may have put in
/// twice is merged before the deltas, which are made of plain sums.
struct BackfillSealing: Sendable {
    let job: BackfillJob
    let source: BackfillSource
    let logger: Logger
    private let store: BackfillStore
    private let query: BackfillQuery
    private let queryID: String

    /// Of one statement: the last ones read a whole type.
    private static let timeout: Duration = .seconds(4 * 3600)
    private static let mergeInterval: Duration = .seconds(1)
    private static let tables: [MirrorTable] = [.entityMetricEvents, .reactionsByEntity]

    init(job: BackfillJob, source: BackfillSource, clickHouse: ClickHouseSettings, logger: Logger) {
        var patient = clickHouse
        patient.requestTimeout = Self.timeout
        self.job = job
        self.source = source
        self.logger = logger
        self.store = BackfillStore(patient)
        self.query = job.query
        self.queryID = job.query.queryID(database: clickHouse.database)
    }

    func run() async throws {
        guard let batch = job.completeBatch else { return }
        try await Self.dropAbandoned(job, store, source)
        let isDoubled = try await sealUsers()
        if isDoubled { try await merge() }
        try await run(query.insertDeltas(through: batch))
        guard try await source.sealed(job) else { return }
        logger.notice("backfill: sealed", metadata: ["entity_type": "\(job.type.name)"])
    }

    static func dropAbandoned(_ job: BackfillJob, _ store: BackfillStore, _ source: BackfillSource) async throws {
        for partition in job.abandoned {
            for table in tables {
                try await source.checkLock()
                guard try await store.hasRows(partition: partition, in: table) else { continue }
                try await store.drop(partition: partition, from: table)
                while try await store.hasRows(partition: partition, in: table) {
                    try await Task.sleep(for: mergeInterval)
                }
            }
        }
    }

    /// Returns whether rows may be there twice.
    private func sealUsers() async throws -> Bool {
        // Until every slice is sealed: the one that another attempt was at is done again.
        var isDoubled = job.isDoubled
        let bounds: [Int64] = try await store.numbers(query.typeRows.users(above: job.sealedUsers), 4)
        try await source.usersSealed(through: nil, isDoubled: true, job)
        var plan = SlicePlan(users: bounds[2] == 0 ? nil : bounds[0]...bounds[1])
        while true {
            switch plan.action {
            case .finish:
                try await source.usersSealed(through: nil, isDoubled: isDoubled, job)
                return isDoubled
            case .count(let users, let width):
                plan.counted(try await store.histogram(query.typeRows.histogram(users, width: width)))
            case .take(let users):
                if try await seal(users) { isDoubled = true }
                plan.taken()
                try await source.usersSealed(through: users.upperBound, isDoubled: true, job)
            }
        }
    }

    /// Returns whether a row that was read is there twice.
    private func seal(_ users: ClosedRange<Int64>) async throws -> Bool {
        let before = try await differences(users)
        if before.clears > 0 { try await run(query.insertClears(users)) }
        if before.clears > 0 || before.differences > 0 {
            try await run(query.insertSeals(users))
            let after = try await differences(users)
            guard after.clears == 0, after.differences == 0 else {
                throw BackfillProblem(
                    description: "\(after.clears + after.differences) sums of users \(users) cannot be sealed: "
                        + "call reactions.restart_backfill")
            }
        }
        try await run(query.insertByEntity(users))
        return before.copies > 0
    }

    private func differences(
        _ users: ClosedRange<Int64>
    ) async throws -> (clears: Int64, differences: Int64, copies: Int64) {
        let found: [Int64] = try await store.numbers(query.differences(users), 4)
        guard found[3] <= Int64(Int8.max) else {
            throw BackfillProblem(description: "a sum of users \(users) is off by \(found[3])")
        }
        return (found[0], found[1], found[2])
    }

    /// OPTIMIZE does nothing beside another merge.
    private func merge() async throws {
        for table in Self.tables {
            try await source.checkLock()
            while try await store.merge(table, query, queryID: queryID) {
                try await Task.sleep(for: Self.mergeInterval)
                try await source.checkLock()
            }
        }
    }

    /// Right before the statement: whoever has lost the lock begins nothing that its successor does not wait out.
    private func run(_ text: String) async throws {
        try await source.checkLock()
        try await store.run(text, queryID: queryID)
    }
}
