import TestSupport
import Testing

/// A type without a table, ten entities that 300 users react to and take back, and what Redis and ClickHouse say of them.
struct CountingSite {
    static let entities = 0..<10
    let stack: Stack
    let session: PostgresConnection

    static func make(
        redis: (any RedisDeployment)? = nil, clickHouse: (any ClickHouseEndpoint)? = nil
    ) async throws -> CountingSite {
        let stack = try await Stack.make(redis: redis, clickHouse: clickHouse)
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        return CountingSite(stack: stack, session: session)
    }

    /// 60 changes in one transaction.
    static let change = """
        SELECT CASE WHEN random() < 0.6 THEN reactions.react(u, e, k) ELSE reactions.unreact(u, e, k) END FROM (
            SELECT floor(random() * 300)::bigint AS u, floor(random() * 10)::bigint AS e,
                   (ARRAY['Like', 'Heart', 'Laugh', 'Cry'])[1 + floor(random() * 4)::int] AS k
            FROM generate_series(1, 60)) changes
        """

    /// The body, while somebody writes.
    func underLoad(_ body: () async throws -> Void) async throws {
        let isOver = OnceSignal()
        let stack = stack
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                let writer = try stack.connect()
                while !isOver.isRaised { try writer.execute(Self.change) }
            }
            do { try await body() } catch {
                isOver.raise()
                throw error
            }
            isOver.raise()
            try await group.waitForAll()
        }
    }

    func key(_ entity: Int, _ suffix: String) -> String { "\(stack.prefix)image:\(entity):\(entity):\(suffix)" }

    /// Has every entity missed until Redis has it.
    func warm() async throws {
        try await eventually("every entity is in Redis") {
            _ = try served()
            return try session.value(
                "SELECT bool_and((reactions.entity_status(e)).tier IS NOT NULL) FROM generate_series(0, 9) e") == "t"
        }
    }

    /// As `entity kind count`.
    func served() throws -> [String] {
        try session.query(
            "SELECT entity_id, kind, count FROM reactions.counts(ARRAY(SELECT generate_series(0, 9)::bigint)) WHERE count <> 0"
        )
        .map { $0.map { $0 ?? "" }.joined(separator: " ") }.sorted()
    }

    var truth: [String] {
        get throws {
            try stack.clickHouseRows(
                """
                SELECT entityId, substring(toString(metricType), 9), count() FROM (SELECT entityId, userId, metricType
                    FROM {db}.entityMetricEvents WHERE entityId < 10 GROUP BY entityId, userId, metricType HAVING argMax(metricValue, version) > 0)
                GROUP BY entityId, metricType
                """
            ).map { $0.joined(separator: " ") }.sorted()
        }
    }

    /// Redis itself holds every entity's counts, and they are the truth, as is everything that is read.
    func expectTruth(sourceLocation: SourceLocation = #_sourceLocation) async throws {
        try await stack.drained(session)
        try await warm()
        let truth = try truth
        #expect(try served() == truth, sourceLocation: sourceLocation)
        let redis = try stack.redis.connect()
        var held: [String] = []
        for entity in Self.entities {
            let fields = try redis.command("HGETALL", key(entity, "reaction_counts")).array ?? []
            var total = 0
            for index in stride(from: 0, to: fields.count - 1, by: 2) {
                guard let name = fields[index].string, let count = Int(fields[index + 1].string ?? "") else { continue }
                if ["Like", "Heart", "Laugh", "Cry"].contains(name), count != 0 {
                    held.append("\(entity) \(name) \(count)")
                    total += count
                }
            }
            #expect(try redis.command("HGET", key(entity, "reaction_counts"), "total") == .string("\(total)"))
            // As many reactors as users, with their kinds.
            let pages = try session.query(
                "SELECT count(*), coalesce(sum(length(replace(flags::bit(4)::text, '0', ''))), 0) FROM reactions.reactors(\(entity), page_size => 1000)"
            )
            #expect(pages[0][0] == (try session.value("SELECT reactions.unique_reactors(\(entity))")))
            #expect(pages[0][1] == "\(total)", sourceLocation: sourceLocation)
        }
        #expect(held.sorted() == truth, sourceLocation: sourceLocation)
    }
}
