internal import FlyingFox
internal import FlyingSocks
internal import Foundation
internal import Glibc
public import ServiceLifecycle

/// `/metrics`, `/healthz` and `/readyz` on the loopback interface.
public struct WebService: Service {
    private let port: UInt16
    private let metrics: Metrics

    public init(port: UInt16, metrics: Metrics) {
        self.port = port
        self.metrics = metrics
    }

    public func run() async throws {
        let server = HTTPServer(
            address: try sockaddr_in.inet(ip4: "127.0.0.1", port: port), timeout: 5, logger: .disabled)
        let metrics = metrics
        await server.appendRoute("GET /metrics") { _ in
            Self.response(.ok, "text/plain; version=0.0.4", metrics.text())
        }
        await server.appendRoute("GET /healthz") { _ in Self.response(.ok, "text/plain", "ok\n") }
        await server.appendRoute("GET /readyz") { _ in
            Self.response(metrics.isReady ? .ok : .serviceUnavailable, "text/plain", "\(metrics.role.rawValue)\n")
        }
        try await withGracefulShutdownHandler {
            do {
                try await server.run()
            } catch  where Task.isShuttingDownGracefully {
                // The listening socket was closed under it.
            }
        } onGracefulShutdown: {
            Task { await server.stop() }
        }
    }

    private static func response(_ status: HTTPStatusCode, _ type: String, _ text: String) -> HTTPResponse {
        HTTPResponse(statusCode: status, headers: [.contentType: type], body: Data(text.utf8))
    }
}
