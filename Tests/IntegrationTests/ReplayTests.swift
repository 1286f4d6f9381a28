import Foundation
import TestSupport
import Testing

@Suite("Replay of real ratings") struct ReplayTests {
    struct Rating {
        var user: Int
        var item: Int
        var kind: String
        var time: Int
    }

    /// The first ratings of MovieTweetings, as reactions (bench/data/README.md has the mapping).
    private func ratings(_ count: Int) async throws -> [Rating] {
        let text = try await run(
            ["/bin/bash", "-c", "xz -dc '\(packageRoot)/bench/data/movietweetings.csv.xz' | head -\(count + 1)"])
        return text.split(separator: "\n").dropFirst().compactMap { line in
            let fields = line.split(separator: ",").compactMap { Int($0) }
            guard fields.count == 4 else { return nil }
            let kind = fields[2] >= 9 ? "Heart" : fields[2] >= 7 ? "Like" : fields[2] >= 4 ? "Laugh" : "Cry"
            return Rating(user: fields[0], item: fields[1], kind: kind, time: fields[3])
        }
    }

    @Test("the original query agrees with flags_many for every user, and with the table")
    func originalQuery() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: "switch_reads")
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        let ratings = try await ratings(6000)
        #expect(ratings.count == 6000)

        // Every third user reacts through the function, the others as DML; some take it back.
        for part in stride(from: 0, to: ratings.count, by: 500).map({ ratings[$0..<min($0 + 500, ratings.count)] }) {
            let reacting = part.filter { $0.user % 3 == 0 }
            let values = reacting.map { "(\($0.user), \($0.item), '\($0.kind)')" }.joined(separator: ",")
            if !reacting.isEmpty {
                try session.execute("SELECT reactions.react(u, i, k) FROM (VALUES \(values)) AS v (u, i, k)")
            }
            let rows = part.filter { $0.user % 3 != 0 }
                .map { "(\($0.user), \($0.item), '\($0.kind)', to_timestamp(\($0.time)) AT TIME ZONE 'UTC')" }
                .joined(separator: ",")
            try session.execute(
                """
                INSERT INTO "ImageReaction" ("userId", "imageId", reaction, "createdAt") VALUES \(rows)
                ON CONFLICT DO NOTHING
                """)
            try session.execute(
                "DELETE FROM \"ImageReaction\" WHERE \"userId\" % 10 = 4 AND \"imageId\" % 2 = 0")
        }
        try await stack.drained(session)

        let users = Set(ratings.map(\.user)).sorted()
        var items: [Int: [Int]] = [:]
        for rating in ratings { items[rating.user, default: []].append(rating.item) }
        for user in users {
            let ids = Set(items[user] ?? []).sorted()
            let asked = ids.map(String.init).joined(separator: ",")
            let mirrored = try stack.clickHouseRows(
                """
                SELECT entityId AS imageId, metricType, MAX(createdAt) AS latestAction, SUM(metricValue) AS totalValue
                FROM {db}.entityMetricEvents WHERE entityType = 'Image' AND userId = \(user) AND entityId IN (\(asked))
                  AND metricType IN ('ReactionLike','ReactionHeart','ReactionLaugh','ReactionCry')
                GROUP BY entityId, metricType HAVING totalValue > 0
                """)
            var flags: [String: Int] = [:]
            let bits = ["ReactionLike": 1, "ReactionHeart": 2, "ReactionLaugh": 4, "ReactionCry": 8]
            for row in mirrored {
                #expect(row[3] == "1")
                flags[row[0], default: 0] |= bits[row[1]] ?? 0
            }
            let served = try session.query("SELECT * FROM reactions.flags_many(\(user), ARRAY[\(asked)])")
            let expected = ids.map { [String($0), String(flags[String($0)] ?? 0)] }
            #expect(served.map { $0.map { $0 ?? "" } } == expected, "user \(user)")
        }
        #expect(users.count > 1000)
        let table = try session.value("SELECT count(*) FROM \"ImageReaction\"")
        let total = try stack.clickHouseRows(
            "SELECT sum(metricValue) FROM {db}.entityMetricEvents WHERE entityType = 'Image'")
        #expect(total == [[table ?? ""]])
    }
}
