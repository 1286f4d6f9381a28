internal import Pipeline
internal import ReactionModel

/// Which rows of the outbox belong to a batch, as conditions in SQL.
///
/// Disjoint conditions, each a range of the index, instead of one with an OR in it, for which the planner may read a whole outbox: its
/// statistics are never right.
struct OutboxRows: Sendable {
    /// Rows below it come from before a restore: their transaction ids mean nothing here.
    let base: Version

    /// The rows of a batch. With no batch before: every row, those from before a restore included.
    func rows(since previous: Snapshot?, until end: Snapshot) -> [String] {
        let visible = "pg_visible_in_snapshot(xid, '\(end.text)'::pg_snapshot)"
        guard let previous else { return ["(version < \(base.rawValue) OR \(visible))"] }
        return newRows(since: previous).map { "\($0) AND xid < '\(end.xmax)'::xid8 AND \(visible)" }
    }

    /// The rows of every batch behind a snapshot, and those that are in none yet.
    func newRows(since previous: Snapshot) -> [String] {
        Self.hidden(from: previous).map { "version >= \(base.rawValue) AND \($0)" }
    }

    /// Rows whose transaction the snapshot does not show.
    static func hidden(from snapshot: Snapshot) -> [String] {
        let later = "xid >= '\(snapshot.xmax)'::xid8"
        guard !snapshot.inProgress.isEmpty else { return [later] }
        return [later, "xid = ANY ('{\(snapshot.inProgress.map(String.init).joined(separator: ","))}'::xid8[])"]
    }

    /// The columns of the rows that meet one of the conditions.
    static func select(_ columns: String, from table: String, where conditions: [String]) -> String {
        conditions.map { "SELECT \(columns) FROM \(table) WHERE \($0)" }.joined(separator: " UNION ALL ")
    }

    /// Whether a row meets one of the conditions.
    static func exists(in table: String, where conditions: [String]) -> String {
        "(" + conditions.map { "EXISTS (SELECT FROM \(table) WHERE \($0))" }.joined(separator: " OR ") + ")"
    }
}
