import Foundation
import Synchronization
import TestSupport
import Testing

/// A frozen table, its users, and ClickHouse.
struct RollbackSite {
    static let users = 400
    static let kinds = ["Like", "Heart", "Laugh", "Cry"]

    let stack: Stack
    let session: PostgresConnection

    /// A table of about three thousand reactions that is in phase `stop_writes`, with an agent that has mirrored all of them.
    static func frozen(_ stack: Stack? = nil) async throws -> (site: RollbackSite, agent: ServerProcess) {
        let stack = if let stack { stack } else { try await Stack.make() }
        let session = try stack.connect()
        try session.execute(
            "CREATE TABLE person (id integer PRIMARY KEY); INSERT INTO person SELECT generate_series(1, \(users))")
        try stack.makePrismaTable(session, phase: "switch_reads")
        try session.execute(
            """
            ALTER TABLE "ImageReaction" ADD FOREIGN KEY ("userId") REFERENCES person ON DELETE CASCADE;
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction, "createdAt")
            SELECT g % \(users) + 1, g / 7, (ARRAY['Like', 'Heart', 'Laugh', 'Cry']::"ReviewReactions"[])[g % 4 + 1], '2020-01-01'
            FROM generate_series(1, 3000) g
            """)
        let agent = try stack.startAgent()
        try await stack.drained(session)
        try session.execute("CALL reactions.advance('Image', force => true)")
        #expect(try session.value("SELECT phase FROM reactions.status()") == "stop_writes")
        return (RollbackSite(stack: stack, session: session), agent)
    }

    /// As `CALL reactions.rollback`, on a thread and a session of its own; what it refuses is returned.
    func rollBack(_ entityType: String = "Image") async throws -> PostgresError? {
        let session = try stack.connect()
        return await onThread {
            do {
                try session.execute("CALL reactions.rollback('\(entityType)')")
                return nil
            } catch {
                return error as? PostgresError
            }
        }
    }

    func phase() throws -> String? { try session.value("SELECT phase FROM reactions.status()") }

    /// Changes many reactions at once, so that there is a middle to be met.
    func change(_ count: Int) throws {
        for first in stride(from: 0, to: count, by: 500) {
            try session.execute(
                """
                SELECT reactions.set_flags(g % \(Self.users) + 1, 10000 + g / \(Self.users), 1 + g % 15)
                FROM generate_series(\(first), \(first + 499)) g
                """)
        }
    }

    func rows() throws -> [[String]] {
        try session.query(
            "SELECT \"userId\", \"imageId\", 'Reaction' || reaction FROM \"ImageReaction\" ORDER BY 1, 2, 3"
        )
        .map { $0.map { $0 ?? "" } }
    }

    func expectAgreement(without refused: Int = 0) async throws {
        try await stack.drained(session)
        let mirrored = try stack.clickHouseRows(
            """
            SELECT userId, entityId, metricType FROM {db}.entityMetricEvents WHERE entityType = 'Image'
            GROUP BY userId, entityId, metricType HAVING argMax(metricValue, version) > 0 ORDER BY userId, entityId, metricType
            """)
        let rows = try rows()
        #expect(BackfillSite.differences(rows, mirrored).count == min(refused, 5))
        #expect(rows.count + refused == mirrored.count)
    }
}

/// Changes reactions of users of its own by the functions, and remembers what it was told.
final class RollbackWriter: Sendable {
    struct Report {
        /// By user · 1000 + entity.
        var flags: [Int: Int32] = [:]
        var writes = 0
        var failures: [String: Int] = [:]
    }

    private let isOver = Atomic(false)
    private let seed: Int
    private let session: PostgresConnection

    init(_ site: RollbackSite, seed: Int) throws {
        self.seed = seed
        session = try site.stack.connect()
    }

    func stop() { isOver.store(true, ordering: .relaxed) }

    /// Users seed + 1, seed + 5, …: four writers share them all; entities 500 … 559 nobody had reacted to.
    func write() async -> Report {
        await onThread { [self] in
            var report = Report()
            var random = UInt64(seed + 1)
            func next(_ limit: Int) -> Int {
                random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                return Int(random >> 33) % limit
            }
            while !isOver.load(ordering: .relaxed) {
                let (user, entity, flags) = (next(100) * 4 + seed + 1, 500 + next(60), Int32(next(16)))
                do {
                    try session.execute("SELECT reactions.set_flags(\(user), \(entity), \(flags))")
                    report.flags[user * 1000 + entity] = flags
                    report.writes += 1
                } catch {
                    report.failures[(error as? PostgresError)?.sqlstate ?? "?", default: 0] += 1
                }
                // Waits for nothing: four writers as fast as they can are as fast as the one who writes back.
                usleep(2_000)
            }
            return report
        }
    }
}
