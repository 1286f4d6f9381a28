import Foundation
import TestSupport

/// The statements that read a page.
struct PageReads {
    let site: ReadSite
    let many: PreparedStatement
    let parameter: PreparedStatement
    let perRow: PreparedStatement
    let table: PreparedStatement
    private let hash: PreparedStatement
    private let directory: TemporaryDirectory

    init(_ site: ReadSite) throws {
        self.site = site
        directory = try Self.makeHashFunction(site.session)
        many = try PreparedStatement(site.session, ReadSite.readReactions)
        parameter = try PreparedStatement(site.session, ReadSite.readParameter)
        perRow = try PreparedStatement(site.session, ReadSite.readPerRow)
        table = try PreparedStatement(site.session, ReadSite.readTable)
        hash = try PreparedStatement(site.session, ReadSite.readHash)
    }

    /// Builds and creates the C function of contenders/hgetall.c.
    private static func makeHashFunction(_ session: PostgresConnection) throws -> TemporaryDirectory {
        let directory = try TemporaryDirectory()
        try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: directory.path)
        let library = directory.file("hgetall.so")
        let compiler = Process()
        compiler.executableURL = URL(filePath: "/bin/sh")
        compiler.arguments = [
            "-c",
            """
            exec gcc -O2 -shared -fPIC -I"$(${PG_CONFIG:-pg_config} --includedir-server)" \
            '\(packageRoot)/bench/contenders/hgetall.c' -lhiredis -o '\(library)'
            """,
        ]
        try compiler.run()
        compiler.waitUntilExit()
        guard compiler.terminationStatus == 0 else { throw BenchmarkError("hgetall.c was not compiled") }
        try session.execute(
            """
            CREATE FUNCTION hgetall(socket text, key text) RETURNS TABLE (field text, value text)
            LANGUAGE c STABLE STRICT AS '\(library)'
            """)
        return directory
    }

    func runHash<Answer>(_ view: PageView, _ body: (PreparedStatement.Rows) throws -> Answer) throws -> Answer {
        try hash.run(
            [
                .bigint(view.user), .bigint(view.first), .text(site.stack.redis.socketPath),
                .text(site.stack.prefix + "reactions:"),
            ], body)
    }

    /// Every way gives what the table has, for every view; afterwards the views' maps are in Redis.
    func warmAndCheck(_ views: [PageView]) throws {
        for view in views {
            let truth = try site.truth(view)
            try check(!truth.isEmpty, "the page of user \(view.user) has no reaction")
            let page: [BinaryParameter] = [.bigint(view.user), .bigint(view.first)]
            func flags(_ rows: PreparedStatement.Rows) -> [Int64: Int64] {
                let pairs = (0..<rows.count).map { (rows.integer($0, 0), rows.integer($0, 1)) }
                return Dictionary(uniqueKeysWithValues: pairs.filter { $0.1 != 0 })
            }
            func ids(_ rows: PreparedStatement.Rows) -> Set<Int64> { Set((0..<rows.count).map { rows.integer($0, 0) }) }
            try check(try many.run(page, flags) == truth, "flags_many of user \(view.user)")
            let parameters: [BinaryParameter] = [.bigint(view.user), .bigints(Array(view.ids))]
            try check(try parameter.run(parameters, flags) == truth, "flags_many by parameter of user \(view.user)")
            try check(try perRow.run(page, flags) == truth, "flags of user \(view.user)")
            try check(try table.run(page, ids) == Set(truth.keys), "the table of user \(view.user)")
            try check(try runHash(view, ids) == Set(truth.keys), "hgetall of user \(view.user)")
        }
    }
}

extension ReadSite {
    /// The read as a statement with literals, for a connection that reads once.
    func literal(_ view: PageView) -> String {
        "SELECT * FROM reactions.flags_many(\(view.user), '{\(view.ids.map(String.init).joined(separator: ","))}')"
    }

    func redisClients() throws -> Int {
        guard let text = try stack.redis.connect().command("INFO", "clients").string,
            let line = text.split(whereSeparator: \.isNewline).first(where: { $0.hasPrefix("connected_clients:") }),
            let count = Int(line.dropFirst("connected_clients:".count))
        else { throw BenchmarkError("INFO has no clients") }
        return count
    }
}

/// Bytes that belong to the process alone.
func privateMemory(of pid: Int32) throws -> Int {
    let text = try String(contentsOfFile: "/proc/\(pid)/smaps_rollup", encoding: .utf8)
    return text.split(separator: "\n").filter { $0.hasPrefix("Private_") }.reduce(0) { sum, line in
        sum + (line.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0) * 1024
    }
}
