internal import Pipeline
internal import ReactionModel

/// Which rows of the outbox belong to a batch, as conditions in SQL.
struct OutboxRows: Sendable {
    /// Rows below it come from before a restore: their transaction ids mean nothing here.
    let base: Version

    /// The rows of a batch. With no batch before: every row, those from before a restore included.
    func rows(since previous: Snapshot?, until end: Snapshot) -> String {
        let visible = "pg_visible_in_snapshot(xid, '\(end.text)'::pg_snapshot)"
        guard let previous else { return "(version < \(base.rawValue) OR \(visible))" }
        return "\(newRows(since: previous)) AND xid < '\(end.xmax)'::xid8 AND \(visible)"
    }

    /// The rows of every batch behind a snapshot, and those that are in none yet.
    func newRows(since previous: Snapshot) -> String {
        let known = previous.inProgress.map(String.init).joined(separator: ",")
        let late = known.isEmpty ? "" : " OR xid = ANY ('{\(known)}'::xid8[])"
        return "version >= \(base.rawValue) AND (xid >= '\(previous.xmax)'::xid8\(late))"
    }
}
