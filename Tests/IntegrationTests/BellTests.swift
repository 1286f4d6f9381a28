import TestSupport
import Testing

@Suite("The bell") struct BellTests {
    @Test("an idle agent sleeps, is woken by the first commit, and hears of no other while it is awake")
    func sleepAndWake() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        func isAsleep() throws -> Bool {
            try session.value(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1380013139 AND objid = 2 AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ) == "1"
        }
        let listener = try stack.connect()
        try listener.execute("LISTEN reactions")
        for round in 1...3 {
            try await eventually("the agent sleeps") { try isAsleep() }
            try session.execute("SELECT reactions.react(1, \(round), 'Like')")
            try await eventually("the event is mirrored") {
                try stack.clickHouseRows("SELECT 1 FROM {db}.entityMetricEvents WHERE entityId = \(round)").count == 1
            }
        }
        #expect(try !isAsleep(), "it polls for a while before it sleeps again")
    }

    @Test("an event of a prepared transaction is mirrored when it is committed, although nobody notifies")
    func prepared() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        try session.execute("BEGIN; SELECT reactions.react(1, 1, 'Like'); PREPARE TRANSACTION '\(stack.database)'")
        try session.execute("SELECT reactions.react(1, 2, 'Like')")
        try await eventually("the other event is mirrored") {
            try stack.clickHouseRows("SELECT entityId FROM {db}.entityMetricEvents") == [["2"]]
        }
        try session.execute("COMMIT PREPARED '\(stack.database)'")
        try await stack.drained(session)
        #expect(
            try stack.clickHouseRows("SELECT entityId FROM {db}.entityMetricEvents ORDER BY entityId") == [
                ["1"], ["2"],
            ])
    }
}
