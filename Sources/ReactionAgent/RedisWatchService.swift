internal import Logging
internal import Pipeline
internal import ServiceLifecycle

/// While this agent leads: looks how much memory each server of Redis has left.
struct RedisWatchService: Service {
    static let interval: Duration = .seconds(15)

    let probe: RedisProbe
    let metrics: Metrics

    init(redis: RedisSettings, metrics: Metrics) {
        probe = RedisProbe(redis)
        self.metrics = metrics
    }

    /// If none can be found, those of before do not answer.
    static func away(_ nodes: [RedisNode]?) -> [RedisNode]? {
        nodes?.map { RedisNode(place: $0.place, report: nil) }
    }

    func run() async throws {
        try? await cancelWhenGracefulShutdown {
            while true {
                while metrics.role != .leading { try await Task.sleep(for: .seconds(1)) }
                let nodes = try? await probe.nodes()
                metrics.update { $0.redisServers = nodes ?? Self.away($0.redisServers) }
                try await Task.sleep(for: Self.interval)
            }
        }
    }
}
