internal import ClickHouseStore
internal import Logging
internal import Pipeline
internal import PostgresSource
internal import ReactionModel

/// Reads one table to its end: lanes take ranges from the machine `TableReading`, each with a session of its own at either server.
struct BackfillReading: Sendable {
    let job: BackfillJob
    let settings: BackfillService.Settings
    let source: BackfillSource
    let postgres: PostgresSettings
    let clickHouse: ClickHouseSettings
    let logger: Logger

    /// Attempts at one range that fail for a passing reason before the operator is told.
    private static let attempts = 5

    /// Returns when every range is confirmed, or when the table was rewritten or the backfill is outdated: the next job says so.
    func run() async throws {
        let sent = try await source.sentRanges(job)
        let progress = BackfillProgress(
            source: source, job: job, store: BackfillStore(clickHouse), requestTimeout: clickHouse.requestTimeout,
            isResumed: !sent.confirmed.isEmpty || !sent.tried.isEmpty,
            machine: TableReading(
                ranges: job.ranges, confirmed: sent.confirmed, tried: sent.tried, limits: settings.limits))
        logger.notice(
            "backfill: reading",
            metadata: [
                "entity_type": "\(job.type.name)", "blocks": "\(job.blocks)", "ranges": "\(job.ranges)",
                "confirmed": "\(sent.confirmed.count)",
            ])
        try await progress.dropAbandoned()
        let isChanged = try await withThrowingTaskGroup(of: Bool.self) { group in
            for _ in 0..<settings.lanes { group.addTask { try await lane(progress) } }
            while let isChanged = try await group.next() {
                guard !isChanged else {
                    group.cancelAll()
                    return true
                }
            }
            return false
        }
        guard !isChanged else { return }
        try await Task.sleep(until: progress.quietAt)
        guard try await progress.isComplete() else { return }
        try await source.tableRead(job)
        logger.notice("backfill: table read", metadata: ["entity_type": "\(job.type.name)"])
    }

    /// Returns whether the table is not what the job says.
    private func lane(_ progress: BackfillProgress) async throws -> Bool {
        let reader = TableReader(settings: postgres)
        let store = BackfillStore(clickHouse)
        let query = job.query
        var backoff = Backoff(limit: settings.longestBackoff)
        while true {
            try Task.checkCancellation()
            switch try await progress.begin() {
            case .finish: return false
            case .wait(let until): try await Task.sleep(until: progress.started + until)
            case .read(let range, let isFirst):
                do {
                    var rows = isFirst ? 0 : try await store.rows(ofRange: range, query)
                    if rows == 0 {
                        switch try await reader.read(range, of: job) {
                        case .outdated: return true
                        case .rewritten:
                            try await source.tableRewritten(job)
                            return true
                        case .rows(let read, let skipped):
                            try await source.rangeRead(range, rows: Int64(read.count), skipped: skipped, job)
                            if !read.isEmpty {
                                rows = try await store.insert(read, ofRange: range, of: job, query)
                            }
                        }
                    }
                    try await progress.confirmed(range, rows: rows)
                    backoff.succeeded()
                } catch {
                    await progress.failed(range)
                    guard isPassing(error), backoff.failures < Self.attempts else { throw error }
                    logger.warning("backfill: range failed", metadata: ["range": "\(range)", "error": "\(error)"])
                    try await Task.sleep(for: backoff.failed())
                }
            }
        }
    }

    private func isPassing(_ error: any Error) -> Bool {
        switch error {
        case let error as SinkError: error.disposition == .retry
        case let error as PostgresError: error.disposition != .stop
        default: false
        }
    }
}

/// What the lanes share.
actor BackfillProgress {
    /// How often the server is asked whether it has started anew.
    private static let identityInterval: Duration = .seconds(10)
    private static let lagInterval: Duration = .milliseconds(250)
    /// PostgreSQL's and ClickHouse's clocks may differ by this much.
    private static let clockSkew: Int64 = 60

    nonisolated let started = ContinuousClock.now
    private let source: BackfillSource
    private let job: BackfillJob
    private let store: BackfillStore
    private var machine: TableReading
    private var serverStartedAt: Int64?
    private var identifiedAt: ContinuousClock.Instant?
    private let requestTimeout: Duration
    /// When no attempt that went unanswered, a former process's included, can add rows any more.
    private(set) var quietAt: ContinuousClock.Instant
    private var lag: (value: Duration, at: ContinuousClock.Instant)?

    init(
        source: BackfillSource, job: BackfillJob, store: BackfillStore, requestTimeout: Duration, isResumed: Bool,
        machine: TableReading
    ) {
        self.requestTimeout = requestTimeout
        self.quietAt = isResumed ? .now + requestTimeout : .now
        self.source = source
        self.job = job
        self.store = store
        self.machine = machine
    }

    func begin() async throws -> TableReading.Action {
        try await identify()
        if lag.map({ .now - $0.at > Self.lagInterval }) ?? true { lag = (try await source.lag(), .now) }
        return machine.begin(lag: lag?.value ?? .zero, now: .now - started)
    }

    func confirmed(_ range: Int, rows: Int) async throws {
        try await source.rangeConfirmed(range, rows: Int64(rows), job)
        machine.rangeConfirmed(range, rows: rows, now: .now - started)
    }

    func failed(_ range: Int) {
        identifiedAt = nil
        quietAt = .now + requestTimeout
        machine.rangeFailed(range)
    }

    /// Whether every range is confirmed by a server that has not started anew since.
    func isComplete() async throws -> Bool {
        identifiedAt = nil
        try await identify()
        return machine.isComplete
    }

    /// Readings that were given up may still be there, also after a request of theirs that came late.
    func dropAbandoned() async throws {
        try await BackfillSealing.dropAbandoned(job, store, source)
    }

    private func identify() async throws {
        if let identifiedAt, .now - identifiedAt < Self.identityInterval { return }
        let found = try await store.startedAt()
        if serverStartedAt.map({ abs($0 - found) > 1 }) ?? true {
            let count = try await source.distrustRanges(
                confirmedBefore: (found + Self.clockSkew) * 1_000_000, job)
            if count > 0 { machine.distrust() }
        }
        serverStartedAt = found
        identifiedAt = .now
    }
}

extension BackfillJob {
    var query: BackfillQuery {
        BackfillQuery(type: type, version: version, sealVersion: sealVersion, batches: batches)
    }
}
