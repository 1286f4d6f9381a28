import Foundation
public import Glibc
import Synchronization

/// A private PostgreSQL: Unix socket in its own short directory, loopback TCP on its own port, trust
/// authentication, superuser `postgres`, no fsync.
public final class PostgresServer: Sendable {
    public let directory: TemporaryDirectory
    public let port: UInt16
    public var dataDirectory: String { directory.file("data") }
    private let state: Mutex<ServerProcess>

    /// One server without settings of its own, for every test that makes its own database.
    public static let shared = Shared { try await PostgresServer.start() }

    /// `PG_BINDIR`, else the newest /usr/lib/postgresql/N/bin.
    public static func binaries() throws -> String {
        if let chosen = ProcessInfo.processInfo.environment["PG_BINDIR"] { return chosen }
        let versions = (try? FileManager.default.contentsOfDirectory(atPath: "/usr/lib/postgresql")) ?? []
        guard let newest = versions.compactMap({ Int($0) }).max() else {
            throw TestSupportError("there is no PostgreSQL in /usr/lib/postgresql")
        }
        return "/usr/lib/postgresql/\(newest)/bin"
    }

    /// Runs a PostgreSQL program, as the user `postgres` when the tests run as root.
    @discardableResult
    public static func tool(_ name: String, _ arguments: [String]) async throws -> String {
        try await run([binaries() + "/" + name] + arguments, user: "postgres")
    }

    /// initdb costs most of a start, so it runs once and its result is copied.
    private static let cluster = Shared {
        let directory = try TemporaryDirectory(owner: "postgres")
        try await tool(
            "initdb",
            [
                "--pgdata", directory.file("data"), "--username=postgres", "--auth=trust", "--encoding=UTF8",
                "--locale=C.UTF-8", "--no-sync", "--no-instructions",
            ])
        return directory
    }

    /// - Parameters:
    ///   - configuration: lines for postgresql.conf, by name; values are quoted here.
    ///   - prepareData: makes the data directory at the given path (owned by `postgres`); nil copies a fresh cluster.
    public static func start(
        sharedPreloadLibraries: [String] = [], configuration: [String: String] = [:],
        prepareData: ((_ path: String) async throws -> Void)? = nil
    ) async throws -> PostgresServer {
        let directory = try TemporaryDirectory(owner: "postgres")
        let data = directory.file("data")
        if let prepareData {
            try await prepareData(data)
        } else {
            try await run(
                ["/bin/cp", "-a", "--reflink=auto", cluster.value.file("data"), data], user: "postgres")
        }
        let port = try FreePort.next()
        var settings = [
            "listen_addresses": "127.0.0.1", "port": String(port), "unix_socket_directories": directory.path,
            "fsync": "off", "full_page_writes": "off", "max_wal_size": "256MB", "shared_buffers": "64MB",
            "timezone": "UTC", "log_line_prefix": "%m [%p] ", "max_prepared_transactions": "20",
        ]
        if !sharedPreloadLibraries.isEmpty {
            settings["shared_preload_libraries"] = sharedPreloadLibraries.joined(separator: ",")
        }
        settings.merge(configuration) { $1 }
        let lines = settings.sorted { $0.key < $1.key }.map { name, value in
            "\(name) = '\(value.replacing("'", with: "''"))'\n"
        }
        let file = try FileHandle(forWritingTo: URL(filePath: data + "/postgresql.conf"))
        try file.seekToEnd()
        try file.write(contentsOf: Data(lines.joined().utf8))
        try file.close()

        let server = PostgresServer(
            directory: directory, port: port, process: try launch(directory: directory, dataDirectory: data))
        try await server.waitUntilReady()
        return server
    }

    private init(directory: TemporaryDirectory, port: UInt16, process: ServerProcess) {
        self.directory = directory
        self.port = port
        self.state = Mutex(process)
    }

    deinit { stop(SIGQUIT) }

    private static func launch(directory: TemporaryDirectory, dataDirectory: String) throws -> ServerProcess {
        try ServerProcess(
            [binaries() + "/postgres", "-D", dataDirectory], user: "postgres", logPath: directory.file("log"),
            orphanSignal: SIGQUIT)
    }

    private func waitUntilReady() async throws {
        try await process.waitUntil { (try? connect()) != nil }
    }

    public var process: ServerProcess { state.withLock { $0 } }

    /// SIGINT is a fast shutdown, SIGQUIT an immediate one (crash recovery follows), SIGTERM waits for the sessions.
    public func stop(_ signal: Int32 = SIGINT) { process.stop(signal) }

    /// Starts again on the same data and port, after `stop` or a crash.
    public func start() async throws {
        process.stop(SIGINT)
        let process = try Self.launch(directory: directory, dataDirectory: dataDirectory)
        state.withLock { $0 = process }
        try await waitUntilReady()
    }

    // MARK: Databases

    /// Through the Unix socket.
    public func conninfo(database: String = "postgres", user: String = "postgres") -> String {
        "host=\(directory.path) port=\(port) dbname=\(database) user=\(user) connect_timeout=10"
    }

    public func connect(database: String = "postgres", user: String = "postgres") throws -> PostgresConnection {
        try PostgresConnection(conninfo(database: database, user: user))
    }

    /// Makes a database with a name of its own and returns the name.
    public func createDatabase(template: String = "template1") throws -> String {
        let name = uniqueName()
        try connect().execute("CREATE DATABASE \(name) TEMPLATE \(template)")
        return name
    }

    public func dropDatabase(_ name: String) throws {
        try connect().execute("DROP DATABASE IF EXISTS \(name) WITH (FORCE)")
    }
}
