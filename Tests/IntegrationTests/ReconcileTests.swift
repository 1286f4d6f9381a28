import TestSupport
import Testing

/// `reactiond reconcile` beside the agent that counts: what it says is wrong is, and is right afterwards.
@Suite("Reconciliation beside an agent") struct ReconcileTests {
    @Test("each fault by hand is told apart, left by a dry run, repaired up to the cap, and built anew by the agent")
    func planted() async throws {
        let site = try await ReconcileSite.make()
        let port = try FreePort.next()
        let agent = try site.stack.startAgent(ReconcileSite.arguments + ["--set", "agent.http_port=\(port)"])
        defer { agent.stop(15) }
        try await site.fill()
        let right = await site.reconcile("--deep")
        #expect(try right.hasEndedWell && site.findings() == [], "\(right.output)")

        let planted = try site.plant()
        let before = try site.contents()
        let dry = await site.reconcile("--deep", "--dry-run")
        #expect(!dry.hasEndedWell)
        #expect(try site.findings() == planted, "\(dry.output)")
        #expect(try site.findings("is_repaired") == [])
        #expect(try site.contents() == before)
        // By lists and counts alone another user with the same kinds is none.
        let plain = await site.reconcile("--dry-run")
        #expect(try site.findings() == planted.filter { $0 != "drift 14" }, "\(plain.output)")

        let capped = await site.reconcile("--deep", "--max-repairs", "5")
        #expect(!capped.hasEndedWell)
        #expect(try site.findings() == planted)
        let repaired = try site.findings("is_repaired")
        #expect(repaired.count == 5, "\(capped.output)")
        let rest = await site.reconcile("--deep")
        #expect(rest.hasEndedWell, "\(rest.output)")
        #expect(try site.findings("is_repaired") == planted.filter { !repaired.contains($0) }, "\(rest.output)")
        try await eventually("the metrics tell of the command's run") {
            let page = try HTTP.request("http://127.0.0.1:\(port)/metrics").text
            let drift = planted.count { $0.hasPrefix("drift") && !repaired.contains($0) }
            return ["found", "repaired"].allSatisfy { metric in
                page.contains("\nreactiond_reconcile_drift_\(metric){type=\"Image\",class=\"drift\"} \(drift).0\n")
            }
        }

        try await site.expectTruth()
        let again = await site.reconcile("--deep")
        #expect(try again.hasEndedWell && site.findings() == [], "\(again.output)")
        let classes = try site.classes()
        #expect(classes["regular"] == "16" && classes["viral"] == "11", "\(classes)")
    }

    /// Entities go from one tier to the other, back and forth, and users away, all the time.
    @Test("nothing is found to be wrong while reactions are written and counted, in both tiers")
    func underLoad() async throws {
        let site = try await CountingSite.make()
        let session = site.session
        try session.execute("UPDATE reactions.entity_type SET viral_threshold = 722, regular_threshold = 718")
        let agent = try site.stack.startAgent(ReconcileSite.arguments)
        defer { agent.stop(15) }
        try session.execute("SET reactions.max_keys_per_transaction = 10000")
        // About 720 of each entity's 1,200 kinds are set, as the load leaves them.
        try session.execute(
            """
            SELECT count(reactions.react(u, e, k)) FROM generate_series(0, 299) u, generate_series(0, 9) e,
                unnest(ARRAY['Like', 'Heart', 'Laugh', 'Cry']) k WHERE random() < 0.6
            """)
        try await site.stack.drained(session)
        try await site.warm()
        func reconcile(_ arguments: String...) async throws {
            let output = try await site.stack.reactiond("reconcile", arguments)
            #expect(output.contains(" 0 faults"), "\(output)")
        }
        try await site.underLoad {
            for user in 1...3 {
                try session.execute("CALL reactions.forget_user(\(user))")
                try await reconcile()
                try await reconcile("--deep")
            }
            try await eventually(within: .seconds(120), "entities change their tiers in both directions") {
                let log = site.stack.agentLog()
                return log.contains("entity is viral") && log.contains("entity is regular")
            }
            try await reconcile("--deep")
        }
        // They were compared.
        #expect(
            try session.query("SELECT count(*), sum(verified) >= 35 FROM reactions.reconcile_run WHERE found = 0") == [
                ["7", "t"]
            ])
        try await site.expectTruth()
        try await reconcile("--deep")
    }

    @Test("one waits for the other, and both find the same")
    func two() async throws {
        let site = try await ReconcileSite.make()
        let agent = try site.stack.startAgent(ReconcileSite.arguments)
        defer { agent.stop(15) }
        try await site.fill()
        let holder = try site.stack.connect()
        let lock = "1380013139, 5"
        try holder.execute("SELECT pg_advisory_lock(\(lock))")
        async let waiting = site.reconcile()
        try await eventually(within: .seconds(60), "the command has a session") {
            try site.session.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%reconcile%'"
            ) != "0"
        }
        #expect(try site.session.value("SELECT count(*) FROM reactions.reconcile_run") == "0")
        try holder.execute("SELECT pg_advisory_unlock(\(lock))")
        let run = await waiting
        #expect(try run.hasEndedWell && site.findings() == [], "\(run.output)")
        // Both at once, with something to do: one after the other.
        _ = try site.plant()
        async let left = site.reconcile("--deep")
        async let right = site.reconcile("--deep")
        for run in await [left, right] { #expect(run.hasEndedWell, "\(run.output)") }
        try await site.expectTruth()
    }
}
