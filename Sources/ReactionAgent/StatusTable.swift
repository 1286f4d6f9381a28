public import PostgresSource

extension MirrorReport {
    /// For humans: one line per fact, then the entity types.
    public var table: String {
        var rows: [(String, String)] = [
            ("leader", leaderPID.map { "backend \($0) since \(leaderSince ?? "?")" } ?? "none: nothing is mirrored"),
            ("backlog", "\(backlogEvents) events" + (oldestEventMilliseconds.map { ", oldest \(Self.age($0))" } ?? "")),
            ("lag p50 / p99", "\(Self.lag(lagP50Milliseconds)) / \(Self.lag(lagP99Milliseconds))"),
            ("unfinished", "\(unfinishedBatches) batches, \(unconfirmedBatches) of them not in ClickHouse"),
            ("newest batch", newestBatch.map { Self.numbered($0) } ?? "none"),
            ("floor", Self.numbered(floor)),
            ("last version", "\(lastVersion)"),
            ("parked", "\(parkedEvents) events"),
            ("outbox", "table \(currentOutbox) of 0–2, \(outboxBytes / 1024) kB in all"),
        ]
        rows += [("in Redis", inRedis), ("answered by Redis", answeredByRedis)]
        if let matchWanted { rows.append(("match wanted", matchWanted)) }
        let width = rows.map(\.0.count).max() ?? 0
        let facts = rows.map { $0.0 + String(repeating: " ", count: width - $0.0.count + 2) + $0.1 }
        let types = types.map { type in
            "\(type.entityType)  phase \(type.phase), epoch \(type.epoch)"
                + (type.rollback.map { "; rolling back: \($0)" } ?? "")
        }
        return (facts + [""] + (types.isEmpty ? ["no entity types"] : types)).joined(separator: "\n")
    }

    /// As it was last looked through.
    private var inRedis: String {
        guard let regular = statistics["regular_entities"], let viral = statistics["viral_entities"] else {
            return "not looked through yet"
        }
        func kilobytes(_ name: String) -> String { statistics[name].map { "\(Int($0 / 1024)) kB" } ?? "unknown size" }
        return "\(Int(regular)) regular and \(Int(viral)) viral entities, \(kilobytes("entity_bytes")); "
            + "maps of users, \(kilobytes("user_map_bytes"))"
    }

    /// Of what it was asked for, since PostgreSQL started.
    private var answeredByRedis: String {
        guard statistics["reads"] != nil else { return "unknown: preload the extension for counters of all sessions" }
        func share(_ hits: [String], _ misses: [String]) -> String {
            let hits = hits.reduce(0) { $0 + (statistics[$1] ?? 0) }
            let all = misses.reduce(hits) { $0 + (statistics[$1] ?? 0) }
            return all == 0 ? "none asked" : "\((hits / all * 1000).rounded(.down) / 10) %"
        }
        return "reactions of users \(share(["hits"], ["misses"])), entities "
            + share(
                ["regular_entity_hits", "viral_entity_hits"],
                ["regular_entity_misses", "viral_entity_misses", "absent_entity_misses"])
    }

    /// `generation.number`.
    private static func numbered(_ value: Int64) -> String {
        "\(value >> 44).\(value & (1 << 44 - 1))"
    }

    private static func lag(_ milliseconds: Int64?) -> String {
        milliseconds.map { "\($0) ms" } ?? "–"
    }

    private static func age(_ milliseconds: Int64) -> String {
        milliseconds < 10_000 ? "\(milliseconds) ms" : "\(milliseconds / 1000) s"
    }
}
