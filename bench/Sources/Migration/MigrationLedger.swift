import TestSupport

/// What there must be, held against what ClickHouse and the functions say at the end.
struct MigrationLedger {
    /// Kinds of reactions whose state is not the application's: an event was lost, or came in the wrong order.
    private(set) var lost = 0
    /// Reactions, or counts of an image, whose sum is not their state: an event was counted twice, or not at all.
    private(set) var doubled = 0
    private(set) var wrongReads: [String] = []
    private(set) var reactions = 0

    init(_ expected: [Int: [Int: Int]], site: MigrationSite) throws {
        try compareStates(expected, site)
        try compareCounts(expected, site)
        try compareReads(expected, site)
    }

    /// State by the newest version and sum of values, of every reaction; in slices of users.
    private mutating func compareStates(_ expected: [Int: [Int: Int]], _ site: MigrationSite) throws {
        let width = 1_000
        for first in stride(from: 1, through: site.users, by: width) {
            var found: [Int: [Int: Int]] = [:]
            for row in try site.stack.clickHouseRows(
                """
                SELECT userId, entityId, sum(bit * (last > 0)), sum(total != (last > 0)) FROM (
                    SELECT userId, entityId, \(Self.bit) AS bit, argMax(metricValue, version) AS last, sum(toInt64(metricValue)) AS total
                    FROM {db}.entityMetricEvents WHERE entityType = 'Image' AND userId >= \(first) AND userId < \(first + width)
                    GROUP BY userId, entityId, metricType
                ) GROUP BY userId, entityId
                """)
            {
                let numbers = row.map { Int($0) ?? -1 }
                found[numbers[0], default: [:]][numbers[1]] = numbers[2]
                doubled += numbers[3]
            }
            for user in first..<min(first + width, site.users + 1) {
                let known = expected[user] ?? [:]
                let mirrored = found[user] ?? [:]
                reactions += known.values.reduce(0) { $0 + $1.nonzeroBitCount }
                for image in Set(known.keys).union(mirrored.keys) {
                    lost += (known[image, default: 0] ^ mirrored[image, default: 0]).nonzeroBitCount
                }
            }
        }
    }

    /// Counts of each kind of each image, as the deltas add up.
    private mutating func compareCounts(_ expected: [Int: [Int: Int]], _ site: MigrationSite) throws {
        var counts: [Int: [Int]] = [:]
        for images in expected.values {
            for (image, flags) in images {
                for kind in 0..<4 where flags & 1 << kind != 0 {
                    counts[image, default: [0, 0, 0, 0]][kind] += 1
                }
            }
        }
        for row in try site.stack.clickHouseRows(
            """
            SELECT entityId, \(Self.bit) AS bit, sum(delta) FROM {db}.reactionDeltas WHERE entityType = 'Image'
            GROUP BY entityId, metricType
            """)
        {
            let numbers = row.map { Int($0) ?? -1 }
            counts[numbers[0], default: [0, 0, 0, 0]][numbers[1].trailingZeroBitCount] -= numbers[2]
        }
        doubled += counts.values.reduce(0) { $0 + $1.count { $0 != 0 } }
    }

    /// The functions' answers for a part of the users, those who were deleted included.
    private mutating func compareReads(_ expected: [Int: [Int: Int]], _ site: MigrationSite) throws {
        for user in stride(from: 1, through: site.users, by: max(site.users / 2_000, 1)) {
            var found: [Int: Int] = [:]
            for row in try site.session.query(
                "SELECT entity_id, flags FROM reactions.by_user($1, page_size => 10000)", [String(user)])
            {
                found[Int(row[0] ?? "") ?? 0] = Int(row[1] ?? "")
            }
            if found != (expected[user] ?? [:]).filter({ $0.value != 0 }) {
                wrongReads.append("user \(user) at the end")
            }
        }
    }

    private static let bit =
        "toInt64(transform(toString(metricType), ['ReactionLike', 'ReactionHeart', 'ReactionLaugh', 'ReactionCry'], [1, 2, 4, 8], 0))"
}
