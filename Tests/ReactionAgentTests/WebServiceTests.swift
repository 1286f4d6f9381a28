import Logging
import ServiceLifecycle
import TestSupport
import Testing

@testable import ReactionAgent

@Suite struct WebServiceTests {
    @Test func itTellsWhetherTheAgentIsReady() async throws {
        let metrics = Metrics()
        let port = try FreePort.next()
        let group = ServiceGroup(
            services: [WebService(port: port, metrics: metrics)],
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        async let running: Void = group.run()
        func status(_ path: String) -> Int? {
            try? HTTP.request("http://127.0.0.1:\(port)\(path)", timeoutSeconds: 5).status
        }
        try await eventually { status("/healthz") == 200 }
        #expect(status("/readyz") == 503)
        metrics.update { $0.role = .leading }
        #expect(status("/readyz") == 200)
        metrics.update { $0.isSinkFailing = true }
        #expect(status("/readyz") == 503)
        metrics.update { $0.role = .following }
        #expect(status("/readyz") == 200)
        #expect(status("/metrics") == 200)
        #expect(status("/other") == 404)
        await group.triggerGracefulShutdown()
        try await running
    }

    @Test("a gauge is left out as long as its value is not known, and by whoever does not lead")
    func unknown() {
        let metrics = Metrics()
        let names = [
            "reactiond_outbox_oldest_event_seconds", "reactiond_erasure_pending_users",
            "reactiond_erasure_oldest_seconds",
        ]
        func shown() -> [String] { names.filter { metrics.text().contains("\n\($0) ") } }
        metrics.update { $0.role = .leading }
        #expect(shown() == [])
        metrics.update {
            $0.outboxAge = 0
            $0.erasures = (0, 0)
        }
        #expect(shown() == names)
        metrics.update { $0.role = .following }
        #expect(!shown().contains(names[0]))
    }
}
