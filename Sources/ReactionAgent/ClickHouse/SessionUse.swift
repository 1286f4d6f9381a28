import Pipeline

/// What an actor has opened; nil for none yet.
extension ClickHouseSession? {
    mutating func open(_ settings: ClickHouseSettings) throws(SinkError) -> ClickHouseSession {
        if let self { return self }
        let opened = try ClickHouseSession(settings)
        self = opened
        return opened
    }

    /// Runs the body in the session, and forgets it after a failure of the connection: another server may answer the next time.
    mutating func use<Answer>(
        _ settings: ClickHouseSettings, _ body: (ClickHouseSession) throws(SinkError) -> Answer
    ) throws(SinkError) -> Answer {
        do {
            return try body(try open(settings))
        } catch {
            if error.isUnanswered { self = nil }
            throw error
        }
    }
}
