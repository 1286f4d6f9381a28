internal import CLibPQ
internal import Glibc

/// One libpq connection, without blocking calls: every wait is a poll(2) with a deadline.
///
/// Not Sendable: it belongs to the actor that opened it. While a conversation is under way the connection is in an unknown state; a
/// failure then leaves it so, and it is not used again.
final class PostgresConnection {
    private let connection: OpaquePointer
    private let wakeUp: WakeUp
    /// For one conversation.
    private let timeout: Duration
    private(set) var isInUnknownState = false
    /// The names of prepared statements, by their text.
    private var prepared: [String: String] = [:]
    /// Told the server's notices and warnings, each as a line or more.
    var notice: (@Sendable (String) -> Void)?

    /// - Parameter password: nil to let libpq find one.
    init(
        conninfo: String, password: String?, applicationName: String, connectTimeout: Duration, timeout: Duration,
        wakeUp: WakeUp
    ) throws(PostgresError) {
        // A conninfo string in `dbname` is expanded; what follows overrides it, what precedes is overridden by it.
        var parameters = [
            ("keepalives_idle", "10"), ("keepalives_interval", "5"), ("keepalives_count", "3"),
            ("tcp_user_timeout", "30000"), ("dbname", conninfo), ("client_encoding", "UTF8"),
            ("application_name", applicationName),
        ]
        if let password { parameters.append(("password", password)) }
        let opened = Self.withCStrings(parameters.map(\.0)) { names in
            Self.withCStrings(parameters.map(\.1)) { values in PQconnectStartParams(names, values, 1) }
        }
        guard let opened else { throw PostgresError(disposition: .retry, message: "out of memory") }
        self.connection = opened
        self.wakeUp = wakeUp
        self.timeout = timeout
        let deadline = ContinuousClock.now + connectTimeout
        var polled = PGRES_POLLING_WRITING
        while polled != PGRES_POLLING_OK {
            guard PQstatus(opened) != CONNECTION_BAD, polled != PGRES_POLLING_FAILED else {
                throw Self.connectError(opened)
            }
            let events = polled == PGRES_POLLING_READING ? POLLIN : POLLOUT
            switch wakeUp.wait(socket: PQsocket(opened), events: events, until: deadline, heedsSignals: true) {
            case .ready: polled = PQconnectPoll(opened)
            case .timedOut:
                throw PostgresError(disposition: .reconnect, message: "no connection within the time allowed")
            case .woken: throw PostgresError(disposition: .reconnect, message: "connecting was interrupted")
            }
        }
        // Safe because: the connection, and with it the pointer, is closed in deinit.
        PQsetNoticeProcessor(
            opened,
            { connection, text in
                guard let connection, let text else { return }
                let receiver = Unmanaged<PostgresConnection>.fromOpaque(connection).takeUnretainedValue()
                receiver.notice?(String(cString: text))
            }, Unmanaged.passUnretained(self).toOpaque())
        _ = PQsetnonblocking(opened, 1)
    }

    deinit {
        PQfinish(connection)
    }

    var backendPID: Int32 { PQbackendPID(connection) }
    var isUsable: Bool { !isInUnknownState && PQstatus(connection) == CONNECTION_OK }

    /// Several statements without parameters, as one implicit transaction unless they say otherwise; one result for each.
    func execute(_ sql: String) throws(PostgresError) -> [PostgresResult] {
        try converse { PQsendQuery(self.connection, sql) }
    }

    /// One statement.
    func query(_ sql: String, _ parameters: [String?] = []) throws(PostgresError) -> PostgresResult {
        let results = try converse {
            Self.withCStrings(parameters) { values in
                PQsendQueryParams(self.connection, sql, Int32(parameters.count), nil, values, nil, nil, 0)
            }
        }
        guard let result = results.last else { throw PostgresError(connection: connection) }
        return result
    }

    /// One statement that is asked again and again: PostgreSQL parses and plans it once in a session. Its text stays the same, what varies
    /// is a parameter. After a failure the connection is not used again, since an update of the extension may have made the plan useless.
    func queryPrepared(_ sql: String, _ parameters: [String?] = []) throws(PostgresError) -> PostgresResult {
        do throws(PostgresError) {
            let name = prepared[sql] ?? "statement_\(prepared.count)"
            if prepared[sql] == nil {
                _ = try converse { PQsendPrepare(self.connection, name, sql, 0, nil) }
                prepared[sql] = name
            }
            let results = try converse {
                Self.withCStrings(parameters) { values in
                    PQsendQueryPrepared(self.connection, name, Int32(parameters.count), values, nil, nil, 0)
                }
            }
            guard let result = results.last else { throw PostgresError(connection: connection) }
            return result
        } catch {
            isInUnknownState = true
            throw error
        }
    }

    /// Begins `COPY … TO STDOUT`, or `COPY … FROM STDIN`. Until `continueCopy` has returned true, or `endCopyIn` has returned, the
    /// connection can be used for nothing else.
    func beginCopy(_ sql: String) throws(PostgresError) {
        let deadline = ContinuousClock.now + timeout
        isInUnknownState = true
        guard PQsendQuery(connection, sql) == 1 else { throw PostgresError(connection: connection) }
        try flush(until: deadline)
        try waitForResult(until: deadline)
        guard let result = PQgetResult(connection) else { throw PostgresError(connection: connection) }
        defer { PQclear(result) }
        guard [PGRES_COPY_OUT, PGRES_COPY_IN].contains(PQresultStatus(result)) else {
            let error = PostgresError(result: result)
            _ = try results(until: deadline)
            isInUnknownState = false
            throw error
        }
    }

    /// Hands over rows until `row` returns false, and returns whether the copy has come to its end. What is not read waits in the
    /// socket, and the server with it.
    func continueCopy(
        _ row: (UnsafeRawBufferPointer) throws(PostgresError) -> Bool
    ) throws(PostgresError) -> Bool {
        let deadline = ContinuousClock.now + timeout
        while true {
            var bytes: UnsafeMutablePointer<CChar>?
            let count = PQgetCopyData(connection, &bytes, 1)
            if count == 0 {
                try wait(events: POLLIN, until: deadline)
                guard PQconsumeInput(connection) == 1 else { throw PostgresError(connection: connection) }
            } else if let bytes, count > 0 {
                defer { PQfreemem(bytes) }
                guard try row(UnsafeRawBufferPointer(start: bytes, count: Int(count))) else { return false }
            } else if count == -1 {
                _ = try results(until: deadline)
                isInUnknownState = false
                return true
            } else {
                throw PostgresError(connection: connection)
            }
        }
    }

    /// Returns when the server has taken the bytes. What it has against them is told by `endCopyIn`.
    func continueCopyIn(_ bytes: [UInt8]) throws(PostgresError) {
        let deadline = ContinuousClock.now + timeout
        guard let count = Int32(exactly: bytes.count) else { throw BinaryCopyRow.nonsense }
        let status = bytes.withUnsafeBytes {
            PQputCopyData(connection, $0.baseAddress?.assumingMemoryBound(to: CChar.self), count)
        }
        guard status == 1 else { throw PostgresError(connection: connection) }
        try flush(until: deadline)
    }

    func endCopyIn() throws(PostgresError) {
        let deadline = ContinuousClock.now + timeout
        guard PQputCopyEnd(connection, nil) == 1 else { throw PostgresError(connection: connection) }
        try flush(until: deadline)
        _ = try results(until: deadline)
        isInUnknownState = false
    }

    /// Waits for a notification on any channel; true if one came. Ends early when woken.
    func waitForNotification(timeout: Duration) throws(PostgresError) -> Bool {
        let deadline = ContinuousClock.now + timeout
        var heard = false
        while true {
            guard PQconsumeInput(connection) == 1 else { throw PostgresError(connection: connection) }
            while let notification = PQnotifies(connection) {
                PQfreemem(notification)
                heard = true
            }
            if heard { return true }
            let outcome = wakeUp.wait(
                socket: PQsocket(connection), events: POLLIN, until: deadline, heedsSignals: true)
            guard outcome == .ready else { return false }
        }
    }

    private func converse(_ send: () -> Int32) throws(PostgresError) -> [PostgresResult] {
        let deadline = ContinuousClock.now + timeout
        isInUnknownState = true
        guard send() == 1 else { throw PostgresError(connection: connection) }
        try flush(until: deadline)
        let results = try results(until: deadline)
        isInUnknownState = false
        return results
    }

    private func flush(until deadline: ContinuousClock.Instant) throws(PostgresError) {
        while true {
            switch PQflush(connection) {
            case 0: return
            case 1:
                try wait(events: POLLIN | POLLOUT, until: deadline)
                guard PQconsumeInput(connection) == 1 else { throw PostgresError(connection: connection) }
            default: throw PostgresError(connection: connection)
            }
        }
    }

    /// Every result up to the end of the command. An error among them is thrown after the last, with the connection in order again.
    private func results(until deadline: ContinuousClock.Instant) throws(PostgresError) -> [PostgresResult] {
        var results: [PostgresResult] = []
        var failure: PostgresError?
        while true {
            try waitForResult(until: deadline)
            guard let result = PQgetResult(connection) else { break }
            switch PQresultStatus(result) {
            case PGRES_COMMAND_OK, PGRES_TUPLES_OK, PGRES_EMPTY_QUERY:
                results.append(PostgresResult(result))
            default:
                failure = PostgresError(result: result)
                PQclear(result)
            }
        }
        if let failure {
            if failure.disposition != .reconnect { isInUnknownState = false }
            throw failure
        }
        return results
    }

    private func waitForResult(until deadline: ContinuousClock.Instant) throws(PostgresError) {
        while PQisBusy(connection) == 1 {
            try wait(events: POLLIN, until: deadline)
            guard PQconsumeInput(connection) == 1 else { throw PostgresError(connection: connection) }
        }
    }

    private func wait(events: Int32, until deadline: ContinuousClock.Instant) throws(PostgresError) {
        guard wakeUp.wait(socket: PQsocket(connection), events: events, until: deadline, heedsSignals: false) == .ready
        else { throw PostgresError(disposition: .reconnect, message: "no answer within the time allowed") }
    }

    /// A refused password or database is told apart from an unreachable server by whether the server asked for anything.
    private static func connectError(_ connection: OpaquePointer) -> PostgresError {
        var error = PostgresError(connection: connection)
        if PQconnectionNeedsPassword(connection) == 1 || PQconnectionUsedPassword(connection) == 1 {
            error.disposition = .stop
        }
        return error
    }

    /// NULL-terminated, as PQconnectStartParams wants it; PQsendQueryParams counts for itself.
    private static func withCStrings<Result>(
        _ strings: [String?], _ body: (UnsafePointer<UnsafePointer<CChar>?>?) -> Result
    ) -> Result {
        let copies = strings.map { string in string.map { strdup($0) } ?? nil }
        defer { copies.forEach { free($0) } }
        let pointers = copies.map { UnsafePointer($0) } + [nil]
        return pointers.withUnsafeBufferPointer { body($0.baseAddress) }
    }
}

/// What an actor has opened.
extension PostgresConnection? {
    /// For another conversation.
    var usable: PostgresConnection {
        get throws(PostgresError) {
            let connection = try opened
            guard connection.isUsable else { throw Self.ended }
            return connection
        }
    }

    /// The same, of a session that is opened if there is none.
    mutating func usable(
        orOpen open: () throws(PostgresError) -> PostgresConnection
    ) throws(PostgresError) -> PostgresConnection {
        if let self, self.isUsable { return self }
        self = nil
        let opened = try open()
        self = opened
        return opened
    }

    /// For going on with a COPY.
    var opened: PostgresConnection {
        get throws(PostgresError) {
            guard let self else { throw Self.ended }
            return self
        }
    }

    private static var ended: PostgresError { PostgresError(disposition: .reconnect, message: "the session has ended") }
}
