import TestSupport

/// What a Redis says of itself, by INFO.
struct RedisUsage {
    /// Bytes it has allocated, without the buffers of its clients, which come and go.
    let usedBytes: Int
    /// CPU time of the process, in seconds.
    let cpuSeconds: Double
    /// Time in commands, in seconds, and their number; without those that a benchmark looks with.
    let commandSeconds: Double
    let commands: Int

    private static let looks: Set = ["hget", "hgetall", "info", "memory", "memory|usage", "scan", "strlen"]

    /// Redis looks at the buffers of its clients once a second: waits until nothing changes any more.
    static func settled(_ connection: RedisConnection) async throws -> RedisUsage {
        var usage = try RedisUsage(connection)
        for _ in 0..<30 {
            try await Task.sleep(for: .milliseconds(1_200))
            let before = usage
            usage = try RedisUsage(connection)
            if abs(usage.usedBytes - before.usedBytes) < 1_000 { return usage }
        }
        throw BenchmarkError("the memory of Redis does not settle")
    }

    init(_ connection: RedisConnection) throws {
        var fields: [Substring: Substring] = [:]
        for section in ["memory", "cpu", "commandstats"] {
            for line in (try connection.command("INFO", section).string ?? "").split(whereSeparator: \.isNewline) {
                let parts = line.split(separator: ":", maxSplits: 1)
                if parts.count == 2 { fields[parts[0]] = parts[1] }
            }
        }
        guard let used = fields["used_memory"].flatMap({ Int($0) }),
            let clients = fields["mem_clients_normal"].flatMap({ Int($0) }),
            let user = fields["used_cpu_user"].flatMap({ Double($0) }),
            let system = fields["used_cpu_sys"].flatMap({ Double($0) })
        else { throw BenchmarkError("Redis does not tell its memory or its CPU time") }
        usedBytes = used - clients
        cpuSeconds = user + system
        var (seconds, calls) = (0.0, 0)
        // cmdstat_evalsha:calls=12,usec=340,usec_per_call=28.33,…
        for (name, text) in fields where name.hasPrefix("cmdstat_") {
            guard !Self.looks.contains(String(name.dropFirst("cmdstat_".count))) else { continue }
            let numbers = text.split(separator: ",").prefix(2).map { Double($0.drop { $0 != "=" }.dropFirst()) ?? 0 }
            guard numbers.count == 2 else { continue }
            calls += Int(numbers[0])
            seconds += numbers[1] / 1e6
        }
        commandSeconds = seconds
        commands = calls
    }
}
