import Foundation
import TestSupport
import Testing

@Suite("Popularity") struct PopularityTests {
    static let reactors = 300_000
    static let reactions = 30_000

    /// Reactions that are newer than the frozen table, so that no cascade takes them: what the deletion means is found in ClickHouse,
    /// and Redis is told of each user, page by page.
    @Test("an entity that everybody reacted to, and a user who reacted to everything, are deleted in phase stop_writes")
    func deleted() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try session.execute(
            """
            CREATE TABLE person (id bigint PRIMARY KEY);
            CREATE TABLE image (id bigint PRIMARY KEY);
            INSERT INTO person VALUES (7);
            INSERT INTO image VALUES (42);
            CREATE TABLE reaction (
                u bigint REFERENCES person ON DELETE CASCADE, e bigint REFERENCES image ON DELETE CASCADE, k text, PRIMARY KEY (u, e, k));
            SELECT reactions.attach('reaction', 'Image', 'u', 'e', 'k', phase => 'switch_reads')
            """)
        try session.execute("CALL reactions.advance('Image', force => true)")
        // As it is by itself: a statement may take seconds.
        let agent = try stack.startAgent(["--set", "clickhouse.timeout=30s"])
        defer { agent.stop(15) }
        try react(session, user: "g", entity: "42", Self.reactors)
        try react(session, user: "7", entity: "g", Self.reactions)
        try await stack.drained(session, within: .seconds(400))
        // Maps of some of those whom Redis has to be told of.
        let ask =
            "SELECT count(*) FROM generate_series(1001, 1010) g WHERE reactions.flags(g, 42) = 1 AND reactions.flags(7, g) = 1"
        #expect(try session.value(ask) == "10")

        let began = ContinuousClock.now
        try session.execute("DELETE FROM image WHERE id = 42; DELETE FROM person WHERE id = 7")
        try await stack.drained(session, within: .seconds(400))
        let took = ContinuousClock.now - began
        print(
            "\(Self.reactors + Self.reactions) reactions were gone after \(took), agent's peak \(try peak(of: agent) >> 10) MB"
        )
        #expect(try peak(of: agent) < 200 << 10)

        #expect(
            try stack.clickHouseRows(
                """
                SELECT count() FROM (SELECT userId FROM {db}.entityMetricEvents GROUP BY userId, entityId, metricType
                    HAVING sum(metricValue) != 0 OR argMax(metricValue, version) > 0)
                """) == [["0"]])
        #expect(
            try stack.clickHouseRows(
                "SELECT count() FROM (SELECT entityId FROM {db}.reactionDeltas GROUP BY entityId HAVING sum(delta) != 0)"
            )
                == [["0"]])
        let left =
            "SELECT count(*) FROM generate_series(1001, 1010) g WHERE reactions.flags(g, 42) <> 0 OR reactions.flags(7, g) <> 0"
        #expect(try session.value(left) == "0")
    }

    /// As many events as one after the other would be, in one statement.
    private func react(_ session: PostgresConnection, user: String, entity: String, _ count: Int) throws {
        let outbox = try session.value("SELECT coalesce(max(current_outbox), 0) FROM reactions._mirror") ?? "0"
        try session.execute(
            """
            INSERT INTO reactions._outbox_\(outbox) (version, xid, user_id, entity_id, created_at, written_at, set_mask, clear_mask,
                type_id, scope, delta_known)
            SELECT reactions._draw_version(), pg_current_xact_id(), \(user), \(entity), now(), clock_timestamp(), 1, 0, type_id, 'r', true
            FROM reactions.entity_type, generate_series(1001, \(1000 + count)) g
            """)
    }

    /// VmHWM in kB.
    private func peak(of process: ServerProcess) throws -> Int {
        let status = try String(contentsOfFile: "/proc/\(process.pid)/status", encoding: .utf8)
        let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
        return line?.split(whereSeparator: { !$0.isNumber }).first.flatMap { Int($0) } ?? .max
    }
}
