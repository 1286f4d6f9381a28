import ArgumentParser
import TestSupport

/// What a post or an image takes in Redis, by the number of its reactions.
struct Memory: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "How much of Redis does an entity take?")

    @OptionGroup var options: BenchOptions

    private static let sizes = [1, 10, 100, 1_000, 9_999, 20_000]
    /// The size of the figure.
    private static let ordinary = 1_000
    /// In which the reactions come, so that lists are made and made anew, as in life.
    private static let transactions = 10
    /// From this size on entities are asked for when their reactions are there and the agent has been started again, and so are built from
    /// ClickHouse: as fast as they come here they would be taken for a beginning, and be viral before they have 10,000.
    private static let built = 9_999

    /// Entities of a size: so many that their share of what Redis has allocated can be told.
    private func copies(_ size: Int) -> Int { max(min(200_000 / size, 200) / (options.short ? 20 : 1), 1) }

    func run() async throws {
        var report = Report()
        let site = try await EntitySite([.post, .image], isLarge: false)
        report.note(
            """
            Reactions were counted as they came, in \(Self.transactions) transactions; entities with \(Self.built) and more were built from \
            ClickHouse by an agent that knows no rate.
            """)
        for type in [CountedType.post, .image] {
            let kind = type.isExclusive ? "one kind at a time" : "kinds combine; every fifth reaction is a second kind"
            report.title("\(type.name), \(kind): bytes in Redis")
            // What Redis allocates once.
            _ = try await measure(Self.ordinary, entities: 1...1, type, site)
            var rows: [[String]] = []
            for (number, size) in Self.sizes.enumerated() {
                let first = 1_000_000 * (number + 1)
                let memory = try await measure(size, entities: first...first + copies(size) - 1, type, site)
                rows.append(row(size, memory))
                if type.isExclusive, size == Self.ordinary {
                    try report.figure("regular_post_bytes", memory.bytes.values.reduce(0, +))
                }
            }
            report.table(
                [
                    "reactions", "tier", "entities", "keys", "counts", "who", "the rest", "all keys", "per reaction",
                    "growth of used_memory",
                ], rows)
        }
        report.note(
            """
            By MEMORY USAGE of every key, the mean of the entities. The growth of used_memory is without the buffers of clients, and \
            has what MEMORY USAGE leaves out: the key's place in Redis's tables.
            """)
        report.end()
    }

    private struct Outcome {
        var entities: Int
        var tier: String
        var keys: Double
        /// By the word at the end of the key.
        var bytes: [String: Double]
        var growth: Double
    }

    private func measure(
        _ size: Int, entities: ClosedRange<Int>, _ type: CountedType, _ site: EntitySite
    ) async throws -> Outcome {
        let before = try await usage(site)
        if size < Self.built { try await site.install(entities, of: type) }
        let parts = min(Self.transactions, size)
        for part in 0..<parts {
            let source = """
                generate_series(1, \(size)) AS n CROSS JOIN generate_series(\(entities.lowerBound), \(entities.upperBound)) AS entity
                WHERE n % \(parts) = \(part)
                """
            try site.session.execute(type.insert(from: source))
        }
        if size >= Self.built {
            try await site.restartAgent()
            try await site.install(entities, of: type)
        }
        for entity in entities { try await site.counted(size, entity, of: type) }
        let after = try await usage(site)

        let keys = try site.keys(of: type).filter { entities.contains($0.key) }.values.flatMap(\.self)
        for entity in [entities.lowerBound, entities.upperBound] {
            let (table, function) = (
                try site.tableCounts(entity, of: type), try site.functionCounts(entity, of: type)
            )
            try check(table == function, "\(type.name) \(entity): \(function), in the table \(table)")
        }
        let count = Double(entities.count)
        return Outcome(
            entities: entities.count, tier: try site.tier(entities.lowerBound, of: type),
            keys: Double(keys.count) / count,
            bytes: try site.memory(of: keys).mapValues { Double($0) / count },
            growth: Double(after.usedBytes - before.usedBytes) / count)
    }

    private func usage(_ site: EntitySite) async throws -> RedisUsage {
        options.short ? try RedisUsage(site.redis) : try await RedisUsage.settled(site.redis)
    }

    private func row(_ size: Int, _ memory: Outcome) -> [String] {
        let all = memory.bytes.values.reduce(0, +)
        let counts = memory.bytes["reaction_counts"] ?? 0
        let who = (memory.bytes["reactions"] ?? 0) + (memory.bytes["sample"] ?? 0)
        return [
            String(size), memory.tier, String(memory.entities), number(memory.keys, 1), number(counts, 0),
            number(who, 0),
            number(all - counts - who, 0), number(all, 0), number(all / Double(size), 1), number(memory.growth, 0),
        ]
    }
}
