import Foundation
import TestSupport
import Testing

@Suite("Backfill", .serialized) struct BackfillTests {
    @Test("the rows of an attached table are in ClickHouse, and capture stops reporting rows that are only rewritten")
    func quiet() async throws {
        let site = try BackfillSite.make(try await Stack.make(), rows: 20_000)
        try site.attach()
        let agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        try await site.sealed()
        try await site.expectAgreement()
        let report = try site.session.query("SELECT rows, skipped_rows, blocks = blocks_read FROM reactions.backfill")
        let counts = try site.session.query(
            """
            SELECT count(*) FILTER (WHERE reaction <> 'Dislike'), count(*) FILTER (WHERE reaction = 'Dislike'), true FROM "ImageReaction"
            """)
        #expect(report == counts)
        #expect(try site.session.value("SELECT backfilled FROM reactions.status()") == "t")
        let agentIsAt = try site.session.value("SELECT count(*) FROM reactions._outbox")
        try site.session.execute("UPDATE \"ImageReaction\" SET note = note")
        #expect(try site.session.value("SELECT count(*) FROM reactions._outbox") == agentIsAt)
        let times = try site.stack.clickHouseRows(
            "SELECT min(toUnixTimestamp(createdAt)), max(toUnixTimestamp(createdAt)) FROM {db}.entityMetricEvents WHERE entityType = 'Image'"
        )
        let created = try site.session.query(
            """
            SELECT extract(epoch FROM min("createdAt"))::bigint, extract(epoch FROM max("createdAt"))::bigint
            FROM "ImageReaction" WHERE reaction <> 'Dislike'
            """)
        #expect(times == created.map { $0.map { $0 ?? "" } })
    }

    @Test("rows that move, appear and vanish while the agent is killed twenty times come out right")
    func liveAndKilled() async throws {
        let site = try BackfillSite.make(try await Stack.make(), rows: 60_000)
        try site.attach()
        for seed in 0..<20 { try site.write(seed: seed) }
        var kills = 0
        var killedInTheMiddle = 0
        var seed = 20
        while kills < 20 {
            let agent = try site.stack.startAgent([
                // No agent lives long enough to take what waits for the mirror.
                // However long they live, it does not come to the end meanwhile.
                "--set", "backfill.rows_per_second=1000", "--set", "backfill.longest_lag=1h",
            ])
            for _ in 0..<(20 + kills * 5) {
                seed += 1
                try site.write(seed: seed)
            }
            // However slow the machine is: half of them die when something is on its way.
            if kills >= 10 {
                try await site.reaches("a range is sent") {
                    try site.session.value("SELECT EXISTS (SELECT FROM reactions._backfill_range)") == "t"
                }
            }
            agent.stop(9)
            kills += 1
            // Ranges were sent, and not all are. How many are confirmed tells less: beside a ClickHouse that has just started they are
            // looked for again.
            let isInTheMiddle = try site.session.value(
                """
                SELECT state = 'reading' AND blocks_read < blocks AND EXISTS (SELECT FROM reactions._backfill_range)
                FROM reactions.backfill
                """)
            if isInTheMiddle == "t" { killedInTheMiddle += 1 }
        }
        #expect(killedInTheMiddle >= 5)
        let agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        try await site.reaches("it is sealed while it is written to", within: .seconds(300)) {
            seed += 1
            try site.write(seed: seed)
            return try site.session.value("SELECT state FROM reactions.backfill") == "sealed"
        }
        for _ in 0..<50 {
            seed += 1
            try site.write(seed: seed)
        }
        try await site.expectAgreement()
    }

    /// What tells one statement that seals from the others, in their order: clears, seals, who reacted, deltas.
    private static let sealing = [
        "toInt8(-1), toDateTime(0", "toInt8((last > 0) - total)", "groupBitOrIf(", "AS difference",
    ]

    @Test("an agent that is killed while it seals, before any of its statements or behind it, has done nothing twice")
    func killedWhileSealing() async throws {
        let clickHouse = try await ClickHouseServer.start()
        let proxy = try FaultProxy(target: clickHouse.httpPort)
        let site = try BackfillSite.make(try await Stack.make(clickHouse: clickHouse), rows: 20_000)
        try site.attach()
        try await site.backfilledByAgent()
        for (round, statement) in Self.sealing.enumerated() {
            for (turn, fault) in [FaultProxy.Fault.hang, .holdAnswer].enumerated() {
                // Rows vanish without a word, others each time, and what is left is read anew under new versions: clears and seals
                // make up for it.
                try site.unseen("DELETE FROM \"ImageReaction\" WHERE id % 101 = \(2 * round + turn)")
                try site.session.execute("SELECT reactions.restart_backfill('Image')")
                let faults = proxy.faults
                proxy.breakNext(containing: statement, fault)
                let agent = try site.stack.startAgent([
                    "--set", "clickhouse.url=http://127.0.0.1:\(proxy.port)", "--set", "clickhouse.timeout=60s",
                ])
                defer { agent.stop(9) }
                for seed in 0..<5 { try site.write(seed: round * 5 + seed) }
                try await site.reaches("it seals: \(statement)") { proxy.faults > faults }
                agent.stop(9)
                if case .holdAnswer = fault { proxy.release() }
                #expect(try site.session.value("SELECT state FROM reactions.backfill") == "sealing")
                try await site.backfilledByAgent()
                try await site.expectAgreement("\(statement), \(fault)")
            }
        }
    }

    @Test("rows that are there twice when everything is read are merged before they are summed")
    func doubled() async throws {
        let site = try BackfillSite.make(try await Stack.make(), rows: 20_000)
        try site.attach()
        // Two ranges, of which the second is the last block: so few parts are not merged by themselves.
        try site.session.execute("UPDATE reactions._backfill SET range_blocks = blocks - 1")
        let agent = try site.stack.startAgent([
            "--set", "backfill.rows_per_second=2500", "--set", "backfill.sessions=1",
        ])
        defer { agent.stop(15) }
        try await eventually("the first range is read") {
            try site.session.value("SELECT blocks_read > 0 FROM reactions.backfill") == "t"
        }
        agent.signal(SIGSTOP)
        // As an attempt does that arrives late on a server without deduplication tokens.
        _ = try site.stack.clickHouseRows(
            "INSERT INTO {db}.entityMetricEvents SELECT * FROM {db}.entityMetricEvents WHERE batch IN (SELECT DISTINCT batch FROM {db}.entityMetricEvents)"
        )
        #expect(try site.session.value("SELECT state FROM reactions.backfill") == "reading")
        agent.signal(SIGCONT)
        try await site.sealed()
        try await site.expectAgreement()
    }

    @Test("what vanished while the table was detached is gone after it was attached again, and what appeared is there")
    func reattached() async throws {
        let site = try BackfillSite.make(try await Stack.make(), rows: 20_000)
        try site.attach()
        let agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        try await site.sealed()
        for seed in 0..<10 { try site.write(seed: seed) }
        try site.session.execute("SELECT reactions.detach('Image')")
        for seed in 10..<40 { try site.write(seed: seed) }
        try site.session.execute("DELETE FROM \"ImageReaction\" WHERE \"userId\" % 3 = 0")
        try site.attach()
        for seed in 40..<60 { try site.write(seed: seed) }
        try await site.sealed()
        try await site.expectAgreement()
        #expect(try site.session.value("SELECT count(*) FROM reactions._backfill WHERE sealed_at IS NOT NULL") == "2")
    }

    @Test(
        "the command works beside an agent that waits to be asked, shows how far it is, and ends when everything is sealed"
    )
    func command() async throws {
        let site = try BackfillSite.make(try await Stack.make(), rows: 20_000)
        try site.attach()
        let agent = try site.stack.startAgent(["--set", "backfill.automatic=false"])
        defer { agent.stop(15) }
        for seed in 0..<20 { try site.write(seed: seed) }
        #expect(try site.session.value("SELECT state FROM reactions.backfill") == "reading")
        let output = try await site.stack.reactiond("backfill", "Image")
        #expect(output.contains("100 %") && output.contains("sealed"), "\(output)")
        try await site.expectAgreement()
        await #expect(throws: TestSupportError.self) { try await site.stack.reactiond("backfill", "Nothing") }
    }

}
