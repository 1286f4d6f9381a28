import Glibc
import Synchronization

/// A private server of Debian's ClickHouse: its own configuration, users, ports and paths; nothing of the system's is read or written.
/// Users: `default` without password, and `tester` with the password `secret`.
public final class ClickHouseServer: ClickHouseEndpoint {
    public let directory: TemporaryDirectory
    public let httpPort: UInt16
    public let tcpPort: UInt16
    public let user = "tester"
    public let password = "secret"
    public let engine = "18.16"
    public var url: String { "http://127.0.0.1:\(httpPort)" }
    private let state: Mutex<ServerProcess>

    /// One server for every test that makes its own database.
    public static let shared = Shared { try await ClickHouseServer.start() }

    /// - Parameters:
    ///   - keepAliveSeconds: after which the server closes an idle connection.
    ///   - configuration: further elements of its configuration.
    ///   - loggedUser: whose queries are in `system.query_log`.
    public static func start(
        keepAliveSeconds: Int = 10, tcpPort: UInt16? = nil, configuration: String = "", loggedUser: String? = nil
    ) async throws -> ClickHouseServer {
        let directory = try TemporaryDirectory()
        let httpPort = try FreePort.next()
        let tcpPort = try tcpPort ?? FreePort.next()
        try directory.write(
            "config.xml",
            """
            <yandex>
                <logger><level>information</level><log>\(directory.file("server.log"))</log>\
            <errorlog>\(directory.file("error.log"))</errorlog></logger>
                <http_port>\(httpPort)</http_port>
                <tcp_port>\(tcpPort)</tcp_port>
                <interserver_http_port>\(try FreePort.next())</interserver_http_port>
                <listen_host>127.0.0.1</listen_host>
                <keep_alive_timeout>\(keepAliveSeconds)</keep_alive_timeout>
                <max_concurrent_queries>100</max_concurrent_queries>
                <mark_cache_size>67108864</mark_cache_size>
                <path>\(directory.file("data/"))</path>
                <tmp_path>\(directory.file("tmp/"))</tmp_path>
                <user_files_path>\(directory.file("user_files/"))</user_files_path>
                <users_config>\(directory.file("users.xml"))</users_config>
                <query_log><database>system</database><table>query_log</table></query_log>
                <default_profile>default</default_profile>
                <default_database>default</default_database>
                <timezone>UTC</timezone>
                \(configuration)
            </yandex>
            """)
        func userXML(_ name: String, password: String) -> String {
            """
            <\(name)><password>\(password)</password><networks><ip>127.0.0.1</ip></networks>\
            <profile>\(name == loggedUser ? "logged" : "default")</profile><quota>default</quota></\(name)>
            """
        }
        try directory.write(
            "users.xml",
            """
            <yandex>
                <profiles><default><max_threads>2</max_threads></default>\
            <logged><max_threads>2</max_threads><log_queries>1</log_queries></logged></profiles>
                <users>\(userXML("default", password: ""))\(userXML("tester", password: "secret"))</users>
                <quotas><default></default></quotas>
            </yandex>
            """)
        let process = try launch(directory)
        let server = ClickHouseServer(directory: directory, httpPort: httpPort, tcpPort: tcpPort, process: process)
        try await server.waitUntilReady()
        return server
    }

    private init(directory: TemporaryDirectory, httpPort: UInt16, tcpPort: UInt16, process: ServerProcess) {
        self.directory = directory
        self.httpPort = httpPort
        self.tcpPort = tcpPort
        self.state = Mutex(process)
    }

    deinit { kill() }

    private static func launch(_ directory: TemporaryDirectory) throws -> ServerProcess {
        try ServerProcess(
            ["/usr/sbin/clickhouse-server", "--config-file=" + directory.file("config.xml")],
            logPath: directory.file("log"), errorPath: directory.file("error.log"))
    }

    private func waitUntilReady() async throws {
        try await process.waitUntil { (try? query("SELECT 1")) != nil }
    }

    public var process: ServerProcess { state.withLock { $0 } }
    public func stop() { process.stop(SIGTERM) }
    public func kill() { process.stop(SIGKILL) }
    /// Stops answering without closing a connection.
    public func pause() { process.signal(SIGSTOP) }
    public func resume() { process.signal(SIGCONT) }

    /// Starts again on the same data and ports.
    public func restart() async throws {
        kill()
        let process = try Self.launch(directory)
        state.withLock { $0 = process }
        try await waitUntilReady()
    }
}
