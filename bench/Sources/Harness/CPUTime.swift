import Foundation

/// Microseconds of CPU that processes have used since they started, by user code and by the kernel for them; 0 for those that are
/// gone. The kernel counts in hundredths of a second.
enum CPUTime {
    /// What children have used that were waited for is in it.
    static func of(_ pid: Int32) -> Double { Process(pid)?.microseconds ?? 0 }

    /// Of a process and its children that run now.
    static func ofTree(_ pid: Int32) -> Double {
        of(pid) + children(of: pid).reduce(0) { $0 + of($1) }
    }

    private static func children(of parent: Int32) -> [Int32] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return names.compactMap { Int32($0) }.filter { Process($0)?.parent == parent }
    }

    private struct Process {
        let parent: Int32
        let microseconds: Double

        /// From the line of proc(5); the name, which may hold anything, ends at the last parenthesis.
        init?(_ pid: Int32) {
            guard let line = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8),
                let name = line.lastIndex(of: ")")
            else { return nil }
            let fields = line[name...].split(separator: " ").dropFirst().map { Double($0) ?? 0 }
            guard fields.count > 14 else { return nil }
            parent = Int32(fields[1])
            // utime, stime, cutime, cstime.
            microseconds = fields[11...14].reduce(0, +) * 1e6 / Double(sysconf(Int32(_SC_CLK_TCK)))
        }
    }
}
