import ArgumentParser
import TestSupport

/// One post from its first reaction to its forty-millionth: what it takes in Redis, what an event costs, and who is asked when it is read.
struct Viral: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Does a post with 40 million reactions cost as much as one with 10,000?")

    @OptionGroup var options: BenchOptions

    @Option(help: "Reactions that the post gets (default: 40000000, in the short form 200000).")
    var events: Int?

    @Option(help: "In which order users come: mixed, or ascending, by their ids.")
    var users = ViralLoad.Users.mixed

    /// As the type has it by default.
    static let threshold = 10_000

    private var limit: Int { events ?? (options.short ? 200_000 : 40_000_000) }
    private var sliceEvents: Int { min(1_000_000, limit / 4) }
    private var rowsPerTransaction: Int { options.short ? 10_000 : 100_000 }

    func validate() throws {
        guard limit >= 10 * Self.threshold else { throw ValidationError("at least \(10 * Self.threshold) events") }
    }

    func run() async throws {
        var report = Report()
        let site = try await EntitySite([ViralLoad.type], isLarge: !options.short)
        // Reactions that come while the post is read, too.
        let load = try await ViralLoad(site, limit: limit * 2, users: users, rowsPerTransaction: rowsPerTransaction)
        report.title("A post with \(limit) reactions, in transactions of \(rowsPerTransaction), users \(users)")
        let slices = try await grow(load, site, report)
        try await table(slices, load, &report)

        let reads = try await ViralReads(site: site, load: load, rounds: options.short ? 100 : 2_000).run()
        try table(reads, &report)

        try await load.change(options.short ? 1_000 : 10_000)
        try ViralTruth(site: site).check()
        report.note(
            """
            At the end, with reactions taken back and changed, \(load.reactions) are left: counts, total, unique_reactors and the first page \
            of reactors are those of the table and of ClickHouse.
            """)
        report.end()
    }

    // MARK: Growth

    private func grow(_ load: ViralLoad, _ site: EntitySite, _ report: Report) async throws -> [ViralLoad.Slice] {
        var slices: [ViralLoad.Slice] = []
        func add(_ slice: ViralLoad.Slice) throws {
            slices.append(slice)
            // Seen while it runs, and kept if it does not come to its end.
            report.note(
                "\(slice.reactions) reactions: \(slice.bytes) bytes, \(number(slice.perEvent(slice.seconds), 2)) µs per event, "
                    + "\(number(slice.perEvent(slice.cpu.agent + slice.cpu.redis), 3)) µs of the agent and Redis; \(try site.tier(ViralLoad.post, of: ViralLoad.type))"
            )
        }
        for target in [10, 100, 1_000, Self.threshold / 2, Self.threshold - 1, Self.threshold] {
            try add(try await load.grow(to: target))
        }
        let liveEvents = options.short ? 500 : 5_000
        let small = try await load.grow(to: load.reactions + liveEvents, rowsPerTransaction: 1)
        for target in stride(from: sliceEvents, through: limit, by: sliceEvents) {
            // The two ends that are compared begin alike.
            if target == sliceEvents || target + sliceEvents > limit { try await site.settle() }
            try add(try await load.grow(to: target))
        }
        let large = try await load.grow(to: load.reactions + liveEvents, rowsPerTransaction: 1)
        report.title("\(liveEvents) reactions one by one, each in a transaction, by one session")
        report.table(
            ["the post had", "per second", "agent's CPU µs per event", "Redis's"],
            [small, large].map { slice in
                [
                    String(slice.reactions - slice.events), number(Double(slice.events) / slice.seconds, 0),
                    number(slice.perEvent(slice.cpu.agent), 2), number(slice.perEvent(slice.cpu.redis), 2),
                ]
            })
        return slices
    }

    private func table(_ slices: [ViralLoad.Slice], _ load: ViralLoad, _ report: inout Report) async throws {
        report.table(
            [
                "reactions", "bytes", "growth of used_memory", "events", "µs per event", "median", "agent", "Redis",
                "Redis, in commands", "commands", "PostgreSQL", "ClickHouse",
            ],
            slices.map { slice in
                let times =
                    [number(slice.perEvent(slice.seconds), 3), number(slice.medianPerEvent, 3)]
                    + [slice.cpu.agent, slice.cpu.redis, slice.commandSeconds].map { number(slice.perEvent($0), 3) }
                return [String(slice.reactions), String(slice.bytes), String(slice.growth), String(slice.events)]
                    + times + [String(slice.commands)]
                    + [slice.cpu.postgres, slice.cpu.clickHouse].map { number(slice.perEvent($0), 2) }
            })
        report.note(
            """
            µs per event: from the first row's writing until Redis's counts have the last one, while all is written as fast as it goes; \
            the median is that of the ten tenths of these events, one after the other without a pause; the others are CPU time. Before \
            the first and before the last \(sliceEvents) events all servers have come to rest. Bytes of the post's keys by MEMORY USAGE: \(try load.memory().sorted { $0.key < $1.key }).
            """)
        let large = slices.filter { $0.reactions > Self.threshold }
        guard let first = large.first, let last = large.last else { throw BenchmarkError("nothing was measured") }
        func growth(_ seconds: (ViralLoad.Slice) -> Double) -> Double {
            last.perEvent(seconds(last)) / first.perEvent(seconds(first))
        }
        try report.figure("viral_post_bytes", Double(last.bytes))
        try report.figure("viral_cost_growth", last.medianPerEvent / first.medianPerEvent)
        try report.figure("viral_time_growth", growth { $0.seconds })
        try report.figure("viral_cpu_growth", growth { $0.cpu.all })
        try report.figure("viral_counting_growth", growth { $0.cpu.agent + $0.cpu.redis })
        let chart = Chart(
            title: "One post: what it takes, what an event costs", xLabel: "reactions of the post", yLabel: "",
            lines: [
                Chart.Line(name: "Redis, kB", points: slices.map { (Double($0.reactions), Double($0.bytes) / 1000) }),
                Chart.Line(
                    name: "µs until counted", points: large.map { (Double($0.reactions), $0.perEvent($0.seconds)) }),
                Chart.Line(
                    name: "µs of agent and Redis",
                    points: large.map { (Double($0.reactions), $0.perEvent($0.cpu.agent + $0.cpu.redis)) }),
            ])
        if let directory = options.charts { try chart.write(to: directory + "/viral.svg") }
    }

    // MARK: Reads

    private func table(_ reads: [ViralReads.Outcome], _ report: inout Report) throws {
        report.title("Reads of the post by 4 clients, while another one writes reactions to it")
        report.table(
            [
                "call", "reads", "median µs", "p99 µs", "asked a database", "the same as the servers saw it",
                "writes meanwhile",
            ],
            reads.map {
                [
                    $0.call, String($0.reads), number($0.times.median, 0), number($0.times.p99, 0),
                    String($0.fallbacks),
                    String($0.seenByServers), String($0.writes),
                ]
            })
        report.note("One viewer in 50 was not here for a week, and has no map in Redis.")
        let asked = reads.reduce(0) { $0 + max($1.fallbacks, $1.seenByServers) }
        try report.figure("viral_db_reads", 1000 * Double(asked) / Double(reads.reduce(0) { $0 + $1.reads }))
    }
}

extension ViralLoad.Users: ExpressibleByArgument {}
