import Foundation
import TestSupport
import Testing

@Suite("Advancing", .serialized) struct AdvanceTests {
    /// Whoever looks finds that the table was matched just now.
    private func match(_ session: PostgresConnection) throws {
        try session.execute(
            """
            INSERT INTO reactions.match_run (type_id, scope, started_at, finished_at, compared)
            SELECT type_id, 'full', clock_timestamp(), clock_timestamp(), 1 FROM reactions.entity_type
            """)
    }

    private func metric(_ port: UInt16, _ name: String) throws -> String? {
        let body = try HTTP.request("http://127.0.0.1:\(port)/metrics", timeoutSeconds: 5).body
        return String(decoding: body, as: UTF8.self).split(separator: "\n").first { $0.hasPrefix(name) }.map(
            String.init)
    }

    @Test("a type with a policy advances when it is ready, as the agent, and the agent sees the new phase at once")
    func byItself() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: "attached")
        try session.execute("INSERT INTO \"ImageReaction\" (\"imageId\", \"userId\", reaction) VALUES (1, 5, 'Like')")
        let port = try FreePort.next()
        let agent = try stack.startAgent(["--set", "agent.http_port=\(port)"])
        defer { agent.stop(15) }
        try await stack.drained(session)
        try await eventually("the table is brought over") {
            try session.value("SELECT backfilled FROM reactions.status()") == "t"
        }
        try await eventually("the phase is shown") {
            (try? metric(port, "reactiond_phase{")) == "reactiond_phase{type=\"Image\",phase=\"attached\"} 1.0"
        }
        #expect(try metric(port, "reactiond_conditions_unmet{") == nil)
        try match(session)
        // What is not ready is tried again a minute later.
        try await eventually("it is ready") {
            try session.value("SELECT bool_and(ok) FROM reactions.readiness('Image')") == "t"
        }
        // Not before its time; in dual_read it lacks compared reads.
        try session.execute(
            "SELECT reactions.configure('Image', auto_advance => '{\"attached\": \"1 second\", \"dual_read\": \"0 seconds\"}')"
        )
        try await eventually("it has advanced") {
            try session.value("SELECT phase FROM reactions.status()") == "dual_read"
        }
        let log = try session.query(
            """
            SELECT from_phase, to_phase, forced, application, changed_at >= lag(changed_at) OVER (ORDER BY phase_log_id) + interval '1 second',
                jsonb_array_length(readiness) > 5
            FROM reactions.phase_log ORDER BY phase_log_id DESC LIMIT 1
            """)
        #expect(log == [["attached", "dual_read", "f", "reactiond auto_advance", "t", "t"]])
        try await eventually("the agent shows it") {
            try metric(port, "reactiond_phase{")?.contains("dual_read") == true
                && metric(port, "reactiond_conditions_unmet{")?.hasPrefix("reactiond_conditions_unmet{type=\"Image\"} ")
                    == true
        }
        // Compared reads are digested from now on.
        try session.execute("SET reactions.compare_share = 1; SELECT reactions.flags(5, 1)")
        try await eventually("the read is counted") {
            try session.value("SELECT sum(reads) FROM reactions.compared_reads") == "1"
        }
        #expect(stack.agentLog().components(separatedBy: "not ready for the next phase").count == 2, "told once")
    }

    @Test("the commands do what the SQL does, and say what it says")
    func commands() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: "attached")
        func output(_ command: String, _ arguments: String...) async -> String {
            do { return try await stack.reactiond(command, arguments) } catch { return "\(error)" }
        }
        func phase() throws -> String? { try session.value("SELECT phase FROM reactions.status()") }
        let readiness = await output("readiness", "Image")
        #expect(
            readiness.contains("status 256") && readiness.contains("unmet  match")
                && readiness.contains("ok     capture"))
        #expect(await output("readiness", "--json").contains("\"condition\" : \"agent\""))
        #expect(await output("readiness", "None").contains("does not exist"))
        let refused = await output("advance", "Image")
        #expect(
            refused.contains("status 256")
                && refused.contains("reactiond: entity type \"Image\" is not ready for phase dual_read"))
        #expect(refused.contains("detail: match: required") && refused.contains("hint: reactions.readiness('Image')"))
        #expect(try phase() == "attached")
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        try await eventually("an agent leads") { try session.value("SELECT reactions._agent_pid()") != nil }
        // It waits until it is ready.
        async let waited = output("advance", "Image", "--wait", "60s")
        try await eventually("somebody waits") {
            try session.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'reactiond advance'")
                == "1"
        }
        try match(session)
        #expect(await waited.contains("advanced"))
        #expect(try phase() == "dual_read")
        #expect(await output("advance", "Image", "--force").contains("advanced"))
        #expect(await output("advance", "Image", "--force").contains("advanced"))
        #expect(try phase() == "stop_writes")
        try session.execute("SELECT reactions.react(7, 7, 'Heart')")
        let back = await output("rollback", "Image")
        #expect(back.contains("rolled back") && back.contains("written back; writers waited for"))
        #expect(try phase() == "switch_reads")
        #expect(try session.value("SELECT reaction FROM \"ImageReaction\" WHERE \"userId\" = 7") == "Heart")
        #expect(await output("rollback", "None").contains("does not exist"))
        let log = try session.query(
            "SELECT DISTINCT application FROM reactions.phase_log WHERE from_phase = 'attached'")
        #expect(log == [["reactiond advance"]])
    }
}
