/// What the last matches of a type have left: a row of the view `reactions.match_status`.
public struct MatchReport: Sendable, Equatable {
    public var entityType: String
    /// By class; empty if nothing is left.
    public var differences: [String: Int64]
    public var isCaptureInDoubt: Bool
    /// Unix seconds, 0 for never.
    public var lastClean: Double
    /// Seconds; nil if there was none.
    public var fullTime: Double?
    public var recentTime: Double?
}

extension MatchSource {
    /// How long the oldest event that is in no finished batch has waited, and zero without one.
    public func lag() throws(PostgresError) -> Duration {
        try PostgresSource.lag(session)
    }

    public func reports() throws(PostgresError) -> [MatchReport] {
        let result = try query(
            """
            SELECT entity_type, is_capture_in_doubt, coalesce(extract(epoch FROM last_clean_at), 0)::float8,
                   extract(epoch FROM last_full_time)::float8, extract(epoch FROM last_recent_time)::float8,
                   (SELECT string_agg(c.key || ' ' || c.value, ',') FROM jsonb_each_text(classes) c)
            FROM reactions.match_status ORDER BY entity_type
            """)
        var reports: [MatchReport] = []
        for row in result.rows {
            let classes = (result.text(row, 5) ?? "").split(separator: ",").map { $0.split(separator: " ") }
            reports.append(
                MatchReport(
                    entityType: try result.required(row, 0),
                    differences: Dictionary(
                        classes.compactMap { pair in pair.count == 2 ? (String(pair[0]), Int64(pair[1]) ?? 0) : nil },
                        uniquingKeysWith: +), isCaptureInDoubt: result.isTrue(row, 1),
                    lastClean: try result.required(row, 2), fullTime: result.value(row, 3),
                    recentTime: result.value(row, 4)))
        }
        return reports
    }
}
