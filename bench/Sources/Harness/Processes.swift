import Foundation
import Glibc
import TestSupport

/// CPU time that the agent and the servers have taken so far, in seconds.
func cpuSeconds(
    agent: ServerProcess?, _ postgres: PostgresServer, _ clickHouse: ClickHouseServer, _ redis: RedisServer? = nil
) -> [(name: String, seconds: Double)] {
    [
        ("reactiond", agent.map { cpuSeconds($0.pid) } ?? 0),
        ("PostgreSQL", cpuSecondsOfTree(postgres.process.pid)),
        ("ClickHouse, its merges included", cpuSeconds(clickHouse.process.pid)),
    ] + (redis.map { [("Redis", cpuSeconds($0.process.pid))] } ?? [])
}

/// What each has taken between two looks.
func cpuSeconds(
    from before: [(name: String, seconds: Double)], to after: [(name: String, seconds: Double)]
) -> [(name: String, seconds: Double)] {
    zip(before, after).map { ($0.name, $1.seconds - $0.seconds) }
}

/// CPU time of a process, its threads that have ended included, in seconds.
func cpuSeconds(_ pid: pid_t) -> Double {
    ProcessTimes(pid)?.own ?? 0
}

/// CPU time of a process, of its children that run and of those that it has waited for.
func cpuSecondsOfTree(_ pid: pid_t) -> Double {
    let processes = ((try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []).compactMap { pid_t($0) }
    let children = processes.compactMap(ProcessTimes.init).filter { $0.parent == pid }
    guard let root = ProcessTimes(pid) else { return 0 }
    return root.own + root.ofEndedChildren + children.reduce(0) { $0 + $1.own + $1.ofEndedChildren }
}

/// The largest resident set that the process has had.
func peakKilobytes(_ pid: pid_t) -> Int {
    let status = (try? String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)) ?? ""
    let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
    return Int((line ?? "").filter(\.isNumber)) ?? 0
}

/// From /proc/PID/stat, proc(5).
private struct ProcessTimes {
    let parent: pid_t
    let own: Double
    let ofEndedChildren: Double

    init?(_ pid: pid_t) {
        // The name, in parentheses, may hold spaces.
        guard let text = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8),
            let end = text.lastIndex(of: ")")
        else { return nil }
        let fields = text[end...].dropFirst(2).split(separator: " ")
        guard fields.count > 14, let parent = pid_t(fields[1]), let user = Double(fields[11]),
            let system = Double(fields[12]), let childUser = Double(fields[13]), let childSystem = Double(fields[14])
        else { return nil }
        let ticks = Double(sysconf(Int32(_SC_CLK_TCK)))
        self.parent = parent
        own = (user + system) / ticks
        ofEndedChildren = (childUser + childSystem) / ticks
    }
}
