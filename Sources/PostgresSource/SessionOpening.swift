/// What a session has beside the settings of every session.
enum SessionKind {
    /// Reads the outbox and what belongs to it, by indexes.
    case outbox
    /// Sorts what it reads in memory.
    case sorting
    /// Walks through a table.
    case table
    /// Reads or writes rows as text, which is read again as it was written, however another database is set up. Ends with its client.
    case archive
    /// Calls what the operator could call. Ends with its client.
    case calls
    /// Calls what does not take long.
    case shortCalls

    fileprivate var settings: String {
        switch self {
        case .outbox: ""
        case .sorting: "SET work_mem = '64MB'"
        case .table: "SET enable_seqscan = on; SET work_mem = '64MB'"
        case .archive:
            """
            SET enable_seqscan = on; SET datestyle = 'ISO, YMD'; SET intervalstyle = postgres; SET extra_float_digits = 1;
            SET xmlbinary = base64; SET client_min_messages = warning; SET client_connection_check_interval = '10s'
            """
        case .calls: "SET enable_seqscan = on; SET client_connection_check_interval = '1s'"
        case .shortCalls: "SET enable_seqscan = on; SET statement_timeout = '30s'"
        }
    }
}

extension PostgresSettings {
    /// Of every session, whatever the role's and the database's are. The outbox tables are emptied too often for statistics to be right,
    /// and their indexes always are. A policy must not hide rows: with it a statement fails.
    private static let ofEverySession = """
        SET search_path = pg_catalog; SET synchronous_commit = on; SET enable_seqscan = off; SET jit = off;
        SET max_parallel_workers_per_gather = 0; SET timezone = 'UTC'; SET bytea_output = hex;
        SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0; SET lock_timeout = 0;
        SET statement_timeout = 0; SET row_security = off;
        """

    /// The one way to a session: refuses a standby, and whatever gives two statements two backends.
    ///
    /// - Parameters:
    ///   - purpose: follows `reactiond` in its `application_name`; docs/agent.md lists them.
    ///   - wakeUp: ends what it waits for.
    func openSession(
        _ purpose: String, _ kind: SessionKind = .outbox, wakeUp: WakeUp = WakeUp()
    ) throws(PostgresError) -> PostgresConnection {
        let opened = try PostgresConnection(
            conninfo: conninfo, password: password, applicationName: "reactiond " + purpose,
            connectTimeout: connectTimeout, timeout: timeout, wakeUp: wakeUp)
        let identity = try opened.query("SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery()")
        guard identity.value(0, 0) == opened.backendPID else {
            throw PostgresError(
                disposition: .stop,
                message: "connected through a connection pooler: session locks need a direct connection")
        }
        guard !identity.isTrue(0, 1) else {
            throw PostgresError(disposition: .stop, message: "the server is a standby: the agent needs the primary")
        }
        _ = try opened.execute(Self.ofEverySession + kind.settings)
        return opened
    }
}
