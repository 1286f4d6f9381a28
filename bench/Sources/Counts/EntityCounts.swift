import ArgumentParser
import TestSupport

/// Counts of pages of posts beside the floor, the counters of the agent beside raw increments, and a mixed load on one hot post.
struct EntityCounts: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "counts", abstract: "How fast are counts, to read and to keep?")

    @OptionGroup var options: BenchOptions

    private var posts: Int { options.short ? 500 : 20_000 }
    private var calls: Int { options.short ? 100 : 4_000 }

    func run() async throws {
        var report = Report()
        let postgres = try await PostgresServer.start(
            sharedPreloadLibraries: ["pg_reactions"], configuration: ["shared_buffers": "256MB"])
        let stack = try await Stack.make(postgres: postgres)
        let site = try await CountSite.make(stack, posts: posts)
        report.note("\(posts) posts, whose counts are in Redis; pages of \(CountSite.pagePosts)")
        try reads(site, &report)
        report.end()
    }

    private func reads(_ site: CountSite, _ report: inout Report) throws {
        let raw = try RawPipeline(site.stack)
        let pages = posts / CountSite.pagePosts
        func first(_ round: Int) -> Int64 { Int64(round % pages * CountSite.pagePosts + 1) }
        let commands = try (0..<pages).map { try RawPipeline.page(site, first($0)) }
        let read = try PreparedStatement(site.session, CountSite.read)
        let returnRows = try PreparedStatement(site.session, CountSite.returnRows)
        let buildIDs = try PreparedStatement(site.session, CountSite.buildIDs)
        for round in 0..<pages {
            try read.run([.bigint(first(round))]) { rows in
                try check(rows.count == CountSite.pagePosts * CountSite.kinds.count, "rows of a page")
                for row in 0..<rows.count {
                    let count = CountSite.count(rows.integer(row, 0), row % CountSite.kinds.count)
                    try check(rows.integer(row, 2) == count, "count of post \(rows.integer(row, 0))")
                }
            }
        }
        let contenders = [
            Contender(name: "build_ids", what: "the statement that builds the page's ids") { round in
                try buildIDs.run([.bigint(first(round))]) { _ in }
            },
            Contender(name: "return_rows", what: "the statement that returns a row for each of the ids and kinds") {
                round in try returnRows.run([.bigint(first(round))]) { _ in }
            },
            Contender(name: "pipeline", what: "hiredis: the page's 100 HMGETs in one pipeline") { round in
                try raw.run(commands[round % pages], replies: CountSite.pagePosts)
            },
            Contender(name: "counts", what: "counts of the page") { round in
                try read.run([.bigint(first(round))]) { _ in }
            },
        ]
        let samples = try measureInTurn(contenders, calls: calls)
        report.title("A page of counts, one client, Unix socket")
        report.table(contenders, samples)
        func median(_ name: String) -> Double { samples[name]?.median ?? .nan }
        try report.figure("counts_vs_floor", median("counts") / (median("return_rows") + median("pipeline")))
    }
}
