internal import ClickHouseStore
internal import Logging
internal import Pipeline
internal import PostgresSource
internal import ReactionModel

/// Sends batches to ClickHouse during one term: one attempt per call, from where the last attempt failed.
actor Deliverer {
    /// What is delivered of the current batch.
    private struct Progress {
        var batch: BatchNumber
        /// The start of the server that has what was sent so far.
        var server: Int64?
        var after = Version.zero
        var tally = BatchTally()
        /// What ClickHouse holds of the chunks so far; nil if it made some of it itself.
        var mirrored: MirroredRows? = MirroredRows()
        var lag = LagHistogram()
        var refusals = RefusalCount()
        /// The chunk that comes next was refused often enough.
        var isBisecting = false
        var parked = 0
    }

    /// More refused events than this in one batch are not the events' fault: a schema or a setting is wrong.
    static let mostParkedPerBatch = 100
    /// How often the server is asked whether it is still the same one.
    static let identityInterval: Duration = .seconds(10)
    /// Between a second look that failed and the next one.
    static let settleInterval: Duration = .seconds(1)
    /// Of how many confirmed batches one question asks whether all their rows are there. The others are read and looked at in chunks.
    static let batchesPerLook = 1_000
    /// What was sent is counted soon after.
    static let keptChunks = 3
    /// PostgreSQL's and ClickHouse's clocks may differ by this much.
    static let clockSkew: Int64 = 60

    private let source: PostgresSource
    private let sink: any Sink
    private let reader: ChunkReader
    private let metrics: Metrics
    private let logger: Logger
    /// Batches up to this one may be under way in requests of a former leader.
    private let inherited: BatchNumber?
    /// When the last of those requests has timed out.
    private let formerLeaderIsGone: ContinuousClock.Instant
    private var progress: Progress?
    private var isDelivering = false
    /// Nobody has tried to insert anything from this position on: a batch that was formed in this term has no other sender.
    private var untried: (batch: BatchNumber, position: Int64)
    private var identity: SinkIdentity?
    /// Under way: whoever asks who the server is waits for the same answer.
    private var identifying: Task<Void, any Error>?
    private var sentChunks: [(batch: BatchNumber, count: Int64, sent: SentChunk)] = []
    private var identifiedAt: ContinuousClock.Instant?
    /// When it was last known that the server has all that was confirmed.
    private var verifiedAt: ContinuousClock.Instant?

    init(
        source: PostgresSource, sink: any Sink, reader: ChunkReader, metrics: Metrics, logger: Logger,
        inherited: BatchNumber?, requestTimeout: Duration
    ) {
        self.source = source
        self.sink = sink
        self.reader = reader
        self.metrics = metrics
        self.logger = logger
        self.inherited = inherited
        self.formerLeaderIsGone = .now + requestTimeout
        self.untried = (inherited ?? BatchNumber(rawValue: 0), .max)
    }

    /// Sends what is not sent of the batch, and returns its lag when ClickHouse has confirmed all of it.
    func deliver(_ batch: Batch) async throws -> LagHistogram {
        isDelivering = true
        defer { isDelivering = false }
        if batch.events > 0 { try await identify() }
        let server = identity?.startedAt
        var progress =
            progress.flatMap { $0.batch == batch.number && $0.server == server ? $0 : nil }
            ?? Progress(batch: batch.number, server: server)
        defer { self.progress = progress }
        if let inherited, batch.number <= inherited, batch.events > 0 { try await waitOutFormerLeader() }
        while progress.tally.events < batch.events {
            try Task.checkCancellation()
            let events = try await reader.events(
                of: batch, after: progress.after, count: progress.tally.events)
            guard let last = events.last else { throw OutboxDamage(batch: batch.number) }
            try await deliver(events, of: batch, &progress)
            progress.tally.add(events)
            progress.after = last.version
            progress.isBisecting = false
            progress.refusals.accepted()
        }
        guard progress.tally.matches(batch) else { throw OutboxDamage(batch: batch.number) }
        // Now, not when Redis has it too: a restart of ClickHouse in between would not be seen to concern the batch.
        if batch.events > 0 { try await source.confirm(batch.number, rows: progress.mirrored) }
        return progress.lag
    }

    /// Events that were read as one, as they were sent.
    struct SentChunk: Sendable {
        /// With their deltas known, without what was parked.
        var events: [Event]
        /// Of the last one that was read.
        var last: Version
        /// Parked ones, too.
        var count: Int64
    }

    /// The next chunk of a confirmed batch behind `version`, of which `count` events precede it: kept, or made again as it was.
    func sent(of batch: Batch, after version: Version, count: Int64) async throws -> SentChunk {
        if let kept = sentChunks.first(where: { $0.batch == batch.number && $0.count == count }) { return kept.sent }
        let events = try await reader.events(of: batch, after: version, count: count)
        guard let last = events.last else { throw OutboxDamage(batch: batch.number) }
        let parked = try await parkedVersions(among: events, of: batch)
        let left =
            parked.positions.isEmpty
            ? events : events.enumerated().filter { !parked.positions.contains($0.offset) }.map(\.element)
        let chunk = try await chunk(
            left, at: Int32(truncatingIfNeeded: count), of: batch, without: parked.unknown)
        return SentChunk(events: chunk?.events ?? [], last: last.version, count: Int64(events.count))
    }

    /// Fails if the session that has the leader's lock is gone, or this term is over and the next one has opened another.
    func proveLeading() async throws {
        _ = try await source.now()
        try Task.checkCancellation()
    }

    /// When the server started of which it is known that it has all that was confirmed; unix seconds, give or take one.
    func verifiedStart() async throws -> Int64 {
        // A delivery has asked before it began, and is not told of another server in its middle.
        if !isDelivering { try await identify() }
        guard let identity else {
            throw SinkError(disposition: .retry, message: "it is not known yet which ClickHouse there is")
        }
        return identity.startedAt
    }

    /// For how long it is not known whether the server has all that was confirmed; nil if it was not known in this term.
    var unverified: Duration? { verifiedAt.map { .now - $0 } }

    /// Until it is cancelled. A restart is to be seen while what was confirmed before is kept, even if nothing is delivered.
    func watch() async throws {
        while true {
            if !isDelivering { try? await identify() }
            try await Task.sleep(for: Self.identityInterval)
        }
    }

    /// Returns when no attempt at the batch, answered or not, can add rows any more. Other batches are sent meanwhile.
    func settle(_ batch: BatchNumber) async throws {
        while true {
            do {
                guard let due = try await sink.settle(batch) else { return }
                try await Task.sleep(until: due)
            } catch let error as SinkError {
                logger.warning(
                    "second look failed", metadata: ["batch": "\(batch.rawValue)", "error": "\(error.message)"])
                try await Task.sleep(for: Self.settleInterval)
            }
        }
    }

    private func deliver(_ events: [Event], of batch: Batch, _ progress: inout Progress) async throws {
        let offset = Int32(truncatingIfNeeded: progress.tally.events)
        var parked = try await parkedVersions(among: events, of: batch)
        var mirrored = progress.mirrored
        var bisection = Bisection(count: events.count, parked: parked.positions)
        var sent: [Chunk] = []
        while let piece = bisection.next() {
            do {
                let chunk = try await chunk(
                    events.piece(piece), at: offset + Int32(piece.lowerBound), of: batch, without: parked.unknown)
                guard let chunk else { continue }
                let rows = try await insert(chunk, of: batch, events: piece.count)
                if let rows { mirrored?.add(rows) } else { mirrored = nil }
                sent.append(chunk)
            } catch let error as SinkError where error.disposition == .rejectBatch {
                identifiedAt = nil
                if !progress.isBisecting {
                    guard progress.refusals.refused(code: error.code) else { throw error }
                    progress.isBisecting = true
                }
                guard case .found(let position) = bisection.refused(piece) else { continue }
                try await park(events[position], of: batch, error, &progress)
                parked.positions.insert(position)
            } catch {
                identifiedAt = nil
                throw error
            }
        }
        progress.mirrored = mirrored
        keep(sent, of: events, progress.tally.events)
        let now = try await source.now()
        for (position, event) in events.enumerated() {
            guard parked.positions.isEmpty || !parked.positions.contains(position) else { continue }
            progress.lag.add(microseconds: now - event.writtenAt)
        }
    }

    private func keep(_ chunks: [Chunk], of events: [Event], _ count: Int64) {
        guard let last = events.last, let batch = chunks.first?.batch else { return }
        let sent = chunks.count == 1 ? chunks[0].events : chunks.sorted { $0.part < $1.part }.flatMap(\.events)
        if sentChunks.count >= Self.keptChunks { sentChunks.removeFirst() }
        sentChunks.append((batch, count, SentChunk(events: sent, last: last.version, count: Int64(events.count))))
    }

    /// - Parameter events: of the chunk, with those that are of unknown types.
    private func insert(_ chunk: Chunk, of batch: Batch, events: Int) async throws -> MirroredRows? {
        let isFirst = notesFirstAttempt(of: batch.number, from: chunk.part, count: events)
        // Right before the request: whoever has lost the lock sends nothing that its successor does not wait out.
        _ = try await source.now()
        let rows = try await sink.insert(chunk, catalog: batch.catalog, isFirst: isFirst)
        metrics.update { $0.insertedEvents += UInt64(chunk.events.count) }
        return rows
    }

    /// Whether nobody has tried any of these positions, which from now on they are.
    private func notesFirstAttempt(of batch: BatchNumber, from part: Int32, count: Int) -> Bool {
        let start = (batch: batch, position: Int64(part))
        guard start >= untried else { return false }
        untried = (batch, start.position + Int64(count))
        return true
    }

    /// The chunk as it is sent, the same at every time; nil if nothing is left of it.
    private func chunk(
        _ events: [Event], at part: Int32, of batch: Batch, without unknown: Set<Version>
    ) async throws -> Chunk? {
        let events = unknown.isEmpty ? events : events.filter { !unknown.contains($0.version) }
        guard let first = events.first else { return nil }
        let keys = events.keysToResolve(batch.catalog)
        let before =
            keys.isEmpty
            ? [:] : try await sink.flags(of: keys, before: batch.number, first.version, catalog: batch.catalog)
        return Chunk(batch: batch.number, part: part, events: events.resolved(before: before, batch.catalog))
    }

    /// Events of types that are no longer known are parked before anything of the chunk is sent, so that it is the same chunk later.
    private func parkedVersions(
        among events: [Event], of batch: Batch
    ) async throws -> (positions: Set<Int>, unknown: Set<Version>) {
        guard let first = events.first, let last = events.last else { return ([], []) }
        let known = Set(batch.catalog.keys)
        var unknown = Set(events.lazy.filter { !known.contains($0.typeID) }.map(\.version))
        if !unknown.isEmpty {
            try await source.park(
                unknown.sorted(), batch: batch.number, errorCode: 0, error: "the entity type is not known")
        }
        let parked = try await source.parkedEvents(of: batch.number, from: first.version, through: last.version)
        unknown.formUnion(parked.filter { $0.errorCode == 0 }.map(\.version))
        let refused = Set(parked.filter { $0.errorCode != 0 }.map(\.version))
        guard !refused.isEmpty else { return ([], unknown) }
        return (Set(events.indices.filter { refused.contains(events[$0].version) }), unknown)
    }

    private func park(
        _ event: Event, of batch: Batch, _ error: SinkError, _ progress: inout Progress
    ) async throws {
        guard progress.parked < Self.mostParkedPerBatch else {
            throw SinkError(
                disposition: .stop, status: error.status, code: error.code,
                message: "more than \(Self.mostParkedPerBatch) events of one batch refused: \(error.message)")
        }
        try await source.park(
            [event.version], batch: batch.number, errorCode: Int32(truncatingIfNeeded: error.code), error: error.message
        )
        progress.parked += 1
        metrics.update { $0.parkedEvents += 1 }
        logger.error(
            "event parked: ClickHouse refuses it",
            metadata: [
                "batch": "\(batch.number.rawValue)", "version": "\(event.version.rawValue)", "code": "\(error.code)",
            ])
    }

    /// Asks the server who it is, and after a restart looks whether what it had confirmed before is still there.
    private func identify() async throws {
        if let identifiedAt, .now - identifiedAt < Self.identityInterval { return }
        if let identifying { return try await identifying.value }
        let task = Task { try await lookWhoItIs() }
        identifying = task
        defer { identifying = nil }
        try await task.value
    }

    private func lookWhoItIs() async throws {
        let askedAt = ContinuousClock.now
        let found = try await sink.connect()
        if found.startedAt != identity?.startedAt {
            let confirmed = (found.startedAt + Self.clockSkew) * 1_000_000
            let batches = try await source.batches(confirmedBefore: confirmed)
            if !batches.isEmpty {
                logger.notice(
                    "verifying batches confirmed before ClickHouse started",
                    metadata: ["batches": "\(batches.count)", "version": "\(found.version)"])
            }
            for start in stride(from: 0, to: batches.count, by: Self.batchesPerLook) {
                let some = batches[start..<min(start + Self.batchesPerLook, batches.count)]
                let found = try await sink.rows(of: some[start].number...some[some.endIndex - 1].number)
                for batch in some where batch.mirrored == nil || batch.mirrored != found[batch.number] {
                    try await verify(batch)
                }
            }
        }
        identity = found
        identifiedAt = .now
        verifiedAt = askedAt
    }

    private func verify(_ batch: Batch) async throws {
        var after = Version.zero
        var part = 0
        while true {
            let events = try await reader.events(of: batch, after: after, count: Int64(part))
            guard let last = events.last else { return }
            let parked = try await parkedVersions(among: events, of: batch)
            var bisection = Bisection(count: events.count, parked: parked.positions)
            while let piece = bisection.next() {
                try Task.checkCancellation()
                let position = Int32(truncatingIfNeeded: part + piece.lowerBound)
                guard
                    let chunk = try await chunk(events.piece(piece), at: position, of: batch, without: parked.unknown),
                    try await !sink.contains(chunk, catalog: batch.catalog)
                else { continue }
                try await waitOutFormerLeader()
                _ = try await source.now()
                _ = try await sink.insert(chunk, catalog: batch.catalog, isFirst: false)
                metrics.update { $0.resentChunks += 1 }
                logger.warning(
                    "chunk sent again: ClickHouse had lost it",
                    metadata: ["batch": "\(batch.number.rawValue)", "part": "\(chunk.part)"])
            }
            after = last.version
            part += events.count
        }
    }

    private func waitOutFormerLeader() async throws {
        try await Task.sleep(until: formerLeaderIsGone)
    }
}

extension [Event] {
    /// The events at these positions, without a copy if they are all.
    fileprivate func piece(_ positions: Range<Int>) -> [Event] {
        positions == indices ? self : Array(self[positions])
    }
}
