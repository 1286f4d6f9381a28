internal import PostgresSource

/// Between two attempts.
private let interval: Duration = .seconds(2)

/// Tries again what PostgreSQL refuses with one of some SQLSTATEs, until it is done or the time is up. Each attempt gives up its locks.
///
/// - Parameters:
///   - deadline: nil for as long as the task is not cancelled.
///   - refused: told of each refusal that is followed by another attempt.
func insisting<Answer>(
    on states: Set<String>, until deadline: ContinuousClock.Instant? = nil, refused: (PostgresError) -> Void = { _ in },
    _ body: () async throws(PostgresError) -> Answer
) async throws -> Answer {
    while true {
        do throws(PostgresError) {
            return try await body()
        } catch {
            let hasTime = deadline.map { .now + interval <= $0 } ?? true
            guard hasTime, states.contains(error.sqlState) else { throw error }
            refused(error)
        }
        try await Task.sleep(for: interval)
    }
}
