internal import ClickHouseStore
public import Pipeline
public import ReactionModel

/// Reads the events of batches in version order, each batch by one sorted COPY that goes on from chunk to chunk, so that the time grows
/// with the events and not with the chunks.
///
/// It has sessions of its own: three, since applying, sending and counting may be at different places. A chunk that does not follow the last one
/// read by any begins a COPY anew. An unfinished COPY holds a snapshot and, in the server, a sort; `release` ends it.
public actor BatchReader {
    /// More than one for each lane would be read by nobody.
    private static let mostStreams = 3

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.reader")
    private let wakeUp = WakeUp()
    private let settings: PostgresSettings
    private let outbox: OutboxRows
    /// Copies under way, the most recently used one last.
    private var streams: [EventStream] = []
    private var idle: [PostgresConnection] = []

    init(settings: PostgresSettings, outbox: OutboxRows) {
        self.settings = settings
        self.outbox = outbox
    }

    /// The next events of the batch, at most its chunk size; none at its end.
    public func events(of batch: Batch, after version: Version) throws(PostgresError) -> [Event] {
        let stream =
            if let index = streams.firstIndex(where: { $0.batch == batch.number && $0.position == version }) {
                streams.remove(at: index)
            } else {
                try begin(batch, after: version)
            }
        let events = try stream.next(Int(min(Int64(batch.chunkEvents), batch.events)))
        if stream.isExhausted {
            idle.append(stream.connection)
        } else {
            streams.append(stream)
        }
        return events
    }

    /// Whether the first chunk of another batch can be read without ending a COPY that is under way.
    public var hasRoom: Bool { streams.count < Self.mostStreams }

    /// Ends what is under way of the batch: nobody asks for more of it for a while.
    public func release(_ batch: BatchNumber) {
        streams.removeAll { $0.batch == batch }
    }

    private func begin(_ batch: Batch, after version: Version) throws(PostgresError) -> EventStream {
        if !hasRoom { streams.removeFirst() }
        let connection = if let last = idle.popLast() { last } else { try connect() }
        let rows = outbox.rows(since: batch.previous, until: batch.snapshot)
            .map { "\($0) AND version > \(version.rawValue)" }
        let tables = (0..<3).map { "reactions._outbox_\($0)" }
        // Only the tables that have such rows: the others may be emptied meanwhile.
        let probes = tables.map { OutboxRows.exists(in: $0, where: rows) }
        let found = try connection.query("SELECT " + probes.joined(separator: ", "))
        let selects = tables.enumerated().filter { found.isTrue(0, Int32($0.offset)) }
            .map { OutboxRows.select(EventDecoder.columns, from: $0.element, where: rows) }
        guard !selects.isEmpty else {
            return EventStream(connection: connection, batch: batch.number, position: version)
        }
        try connection.beginCopy(
            "COPY (\(selects.joined(separator: " UNION ALL ")) ORDER BY version) TO STDOUT (FORMAT binary)")
        return EventStream(connection: connection, batch: batch.number, position: version, isExhausted: false)
    }

    private func connect() throws(PostgresError) -> PostgresConnection {
        // A chunk of a live batch and most of a backlog's are sorted in memory.
        try settings.openSession("reader", .sorting, wakeUp: wakeUp)
    }
}

/// One COPY of a batch's events in version order.
private final class EventStream {
    let connection: PostgresConnection
    let batch: BatchNumber
    /// Of the last event handed over.
    private(set) var position: Version
    private(set) var isExhausted: Bool
    private var decoder = EventDecoder()
    /// Read, and left for the next chunk.
    private var pending: Event?

    init(connection: PostgresConnection, batch: BatchNumber, position: Version, isExhausted: Bool = true) {
        self.connection = connection
        self.batch = batch
        self.position = position
        self.isExhausted = isExhausted
    }

    /// At most `limit` events, all of scope `reaction` or all of one removal.
    func next(_ limit: Int) throws(PostgresError) -> [Event] {
        var events: [Event] = []
        guard !isExhausted else { return events }
        events.reserveCapacity(limit)
        if let pending { events.append(pending) }
        pending = nil
        isExhausted = try connection.continueCopy { row throws(PostgresError) in
            guard let event = try decoder.decode(row) else { return true }
            if events.count == limit || !events.isEmpty && !Self.isOneChunk(events, event) {
                pending = event
                return false
            }
            events.append(event)
            return true
        }
        if let last = events.last { position = last.version }
        return events
    }

    private static func isOneChunk(_ events: [Event], _ next: Event) -> Bool {
        events[0].scope == .reaction ? next.scope == .reaction : Removal.isOne(events, with: next)
    }
}
