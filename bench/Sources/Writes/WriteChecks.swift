import TestSupport

/// Whether what was written is where it has to be: once in PostgreSQL, once in ClickHouse, and in what the functions serve.
extension WriteSite {
    /// Reactions of a type as ClickHouse has them: changes, distinct ones, and what remains set.
    private struct Mirrored: Equatable {
        var rows: Int
        var distinct: Int
        var set: Int
    }

    func rows(in table: String) throws -> Int {
        Int(try session.value("SELECT count(*) FROM \"\(table)\"") ?? "") ?? -1
    }

    /// Nothing lost, nothing doubled, of what was written since the table was brought over.
    func checkMirror(_ type: String, events: Int) throws {
        let base = try session.value(
            """
            SELECT coalesce(max(b.version), 0) FROM reactions._backfill b JOIN reactions.entity_type t USING (type_id)
            WHERE t.entity_type = $1
            """, [type])
        let rows = try stack.clickHouseRows(
            """
            SELECT count(), uniqExact(version), toInt64(sum(metricValue)) FROM {db}.entityMetricEvents
            WHERE entityType = '\(type)' AND version > \(base ?? "0")
            """)
        let numbers = rows.first?.compactMap { Int($0) } ?? []
        try check(
            numbers == [events, events, events],
            "\(events) reactions of type \(type) were written; ClickHouse has rows, versions and a sum of \(numbers)")
    }

    /// What is served of some users' newest reactions, from Redis and without it.
    func checkServed(_ type: String, from table: String? = nil) throws {
        for user in stride(from: 1, through: users, by: max(users / 50, 1)) {
            let mirrored = try flags(of: user, type, from: table)
            let ids = mirrored.keys.sorted()
            guard !ids.isEmpty else { continue }
            let served = try session.query(
                "SELECT entity_id, flags FROM reactions.flags_many($1, $2::bigint[], $3)",
                ["\(user)", "{\(ids.map(String.init).joined(separator: ","))}", type])
            let found = Dictionary(uniqueKeysWithValues: served.map { ($0[0] ?? "", $0[1] ?? "") })
            for id in ids {
                try check(
                    found["\(id)"] == "\(mirrored[id] ?? 0)",
                    "user \(user) has flags \(mirrored[id] ?? 0) on entity \(id), served is \(found["\(id)"] ?? "nothing")"
                )
            }
        }
    }

    /// Of a table, or of ClickHouse for a type without one.
    private func flags(of user: Int, _ type: String, from table: String?) throws -> [Int: Int] {
        let flagOf = ["Like": 1, "Heart": 2, "Laugh": 4, "Cry": 8]
        let pairs: [(String, String)] =
            if let table {
                try session.query(
                    "SELECT \"imageId\", reaction FROM \"\(table)\" WHERE \"userId\" = $1 ORDER BY id DESC LIMIT 200",
                    ["\(user)"]
                ).map { ($0[0] ?? "", $0[1] ?? "") }
            } else {
                try stack.clickHouseRows(
                    """
                    SELECT entityId, substring(toString(metricType), 9) FROM {db}.entityMetricEvents
                    WHERE entityType = '\(type)' AND userId = \(user) GROUP BY entityId, metricType
                    HAVING sum(metricValue) > 0 ORDER BY max(version) DESC LIMIT 200
                    """
                ).map { ($0[0], $0[1]) }
            }
        return pairs.reduce(into: [:]) { $0[Int($1.0) ?? -1, default: 0] |= flagOf[$1.1] ?? 0 }
    }
}
