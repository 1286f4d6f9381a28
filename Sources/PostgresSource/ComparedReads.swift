/// Has the extension take the compared reads of phase `dual_read` out of Redis, over a session of its own.
public actor ComparedReads {
    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.compared")
    private let wakeUp = WakeUp()
    private let settings: PostgresSettings
    private var connection: PostgresConnection?

    public init(settings: PostgresSettings) {
        self.settings = settings
    }

    public func close() {
        connection = nil
    }

    /// Returns whether there was a type in the phase, or a difference to be looked at again.
    public func digest() throws(PostgresError) -> Bool {
        do throws(PostgresError) {
            let session = try connection.usable { () throws(PostgresError) in
                try settings.openSession("compared reads", .shortCalls, wakeUp: wakeUp)
            }
            let found = try session.queryPrepared(
                """
                SELECT EXISTS (SELECT FROM reactions.entity_type WHERE phase = 'dual_read')
                    OR EXISTS (SELECT FROM reactions.mismatch WHERE class IS NULL)
                """)
            guard found.isTrue(0, 0) else { return false }
            _ = try session.query("CALL reactions._digest_compared()")
            return true
        } catch {
            connection = nil
            throw error
        }
    }

    /// Ends what is waiting for PostgreSQL.
    public nonisolated func interrupt() {
        wakeUp.signal()
    }
}
