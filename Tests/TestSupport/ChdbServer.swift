import Foundation
import Glibc
import Synchronization

/// The current engine: ClickHouse 26.9 as chDB embeds it, behind the HTTP gateway in Tests/chdb-gateway.
public final class ChdbServer: ClickHouseEndpoint {
    public let directory: TemporaryDirectory
    public let httpPort: UInt16
    public let user = "tester"
    public let password = "secret"
    public let engine = "26.9"
    public var url: String { "http://127.0.0.1:\(httpPort)" }
    private let state: Mutex<ServerProcess>

    /// One gateway for every test that makes its own database.
    public static let shared = Shared { try await ChdbServer.start() }

    /// Makes the Python environment in .cache/chdb if there is none: a download of 150 MB.
    public static func start() async throws -> ChdbServer {
        try await run([packageRoot + "/Tests/chdb-gateway/install"], within: .seconds(900))
        let directory = try TemporaryDirectory()
        let port = try FreePort.next()
        let server = ChdbServer(directory: directory, httpPort: port, process: try launch(directory, port: port))
        try await server.waitUntilReady()
        return server
    }

    private init(directory: TemporaryDirectory, httpPort: UInt16, process: ServerProcess) {
        self.directory = directory
        self.httpPort = httpPort
        self.state = Mutex(process)
    }

    deinit { kill() }

    private static func launch(_ directory: TemporaryDirectory, port: UInt16) throws -> ServerProcess {
        try ServerProcess(
            [
                packageRoot + "/.cache/chdb/bin/python", packageRoot + "/Tests/chdb-gateway/gateway.py",
                "--path", directory.file("data"), "--port", String(port), "--user", "tester",
            ], environment: ["GATEWAY_PASSWORD=secret"], logPath: directory.file("log"))
    }

    private func waitUntilReady() async throws {
        try await process.waitUntil { (try? query("SELECT 1")) != nil }
    }

    public var process: ServerProcess { state.withLock { $0 } }
    public func stop() { process.stop(SIGTERM) }
    public func kill() { process.stop(SIGKILL) }

    /// Starts again on the same data and port.
    public func restart() async throws {
        kill()
        let process = try Self.launch(directory, port: httpPort)
        state.withLock { $0 = process }
        try await waitUntilReady()
    }
}
