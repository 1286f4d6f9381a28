import Foundation
import TestSupport
import Testing

@Suite("Sessions of the agent") struct AgentSessionTests {
    @Test("each says what it is for, docs/agent.md knows it, and there are no more than it says")
    func named() async throws {
        let site = try MatchSite.make(try await Stack.make(), rows: 20_000)
        /// Names of all that were seen, and the most at a time.
        var seen: Set<String> = []
        var most = 0
        func look() throws -> [String] {
            let names = try site.session.query(
                """
                SELECT application_name FROM pg_stat_activity
                WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY 1
                """
            ).map { $0[0] ?? "" }
            seen.formUnion(names)
            most = max(most, names.count)
            return names
        }
        let agent = try site.stack.startAgent([
            "--set", "match.watch_interval=100ms", "--set", "clickhouse.timeout=60s",
        ])
        defer { agent.stop(15) }
        try await eventually("it is sealed and matched") {
            _ = try look()
            return try site.value("SELECT last_clean_at IS NOT NULL FROM reactions.match_status") == "t"
        }
        #expect(seen.isSuperset(of: ["reactiond backfill reader", "reactiond match reader"]), "\(seen)")
        #expect(most <= 18)
        let always = [
            "auto_advance", "backfill", "compared reads", "entities", "erasure", "match", "mirror", "reconcile",
            "rollback", "watch",
        ].map { "reactiond " + $0 }
        try await eventually("only those of a leader with nothing to do are left") {
            try look().filter { $0 != "reactiond reader" } == always
        }
        let documentation = try String(contentsOfFile: packageRoot + "/docs/agent.md", encoding: .utf8)
        for name in seen { #expect(documentation.contains("`\(name)`"), "\(name)") }

        let follower = try site.stack.startAgent()
        defer { follower.stop(15) }
        try await eventually("a follower has two") {
            try look().filter { $0 != "reactiond reader" }
                == (always + ["reactiond backfill", "reactiond mirror"]).sorted()
        }
    }
}
