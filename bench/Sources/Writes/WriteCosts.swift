import TestSupport

/// CPU time of the servers, and what a way to write has used of it.
struct WriteCosts {
    private static let servers = ["PostgreSQL", "the agent's session", "agent", "Redis", "ClickHouse"]

    private var used: [String: [Double]] = [:]
    private var reactions: [String: Int] = [:]

    /// Microseconds since the servers started. The session that looks whether they are done is left out.
    static func now(_ site: WriteSite) throws -> [Double] {
        let stack = site.stack
        let agentSession = CPUTime.of(
            Int32(try site.session.value("SELECT agent_pid FROM reactions.mirror_status") ?? "") ?? 0)
        let postgres = CPUTime.ofTree(stack.postgres.process.pid)
        return [
            postgres - agentSession - CPUTime.of(site.session.backendPID), agentSession, CPUTime.of(site.agentPID),
            CPUTime.of(stack.redis.process.pid),
            (stack.clickHouse as? ClickHouseServer).map { CPUTime.of($0.process.pid) } ?? 0,
        ]
    }

    mutating func add(_ way: Way, from before: [Double], to after: [Double], reactions count: Int) {
        let spent = zip(after, before).map { $0 - $1 }
        used[way.name] = zip(used[way.name] ?? spent.map { _ in 0 }, spent).map { $0 + $1 }
        reactions[way.name, default: 0] += count
    }

    func table(_ ways: [Way]) -> (columns: [String], rows: [[String]]) {
        let rows = ways.map { way in
            let perReaction = (used[way.name] ?? []).map { $0 / Double(max(reactions[way.name] ?? 0, 1)) }
            return [way.name] + (perReaction + [perReaction.reduce(0, +)]).map { number($0, 1) }
        }
        return (["CPU µs per reaction"] + Self.servers + ["sum"], rows)
    }
}
