import Foundation
public import Glibc
import Synchronization

/// A server that cannot outlive the test process: the kernel signals it when the test process dies, however it dies.
public final class ServerProcess: Sendable {
    public let pid: pid_t
    /// What ends it at once and leaves no shared memory behind: SIGQUIT for PostgreSQL, SIGKILL for the others.
    let orphanSignal: Int32
    private let logPaths: [String]
    private let hasEnded = Mutex(false)

    /// - Parameters:
    ///   - user: whom to run it as; ignored unless the test process runs as root.
    ///   - logPath: where its standard output and error go.
    ///   - errorPath: where the server itself writes its errors.
    public init(
        _ command: [String], environment: [String] = [], user: String? = nil, logPath: String,
        errorPath: String? = nil, orphanSignal: Int32 = SIGKILL
    ) throws {
        self.pid = try Launcher.shared.launch(
            command, environment: environment, user: user, deathSignal: orphanSignal, logPath: logPath)
        self.logPaths = [logPath, errorPath].compactMap { $0 }
        self.orphanSignal = orphanSignal
        ExitHooks.shared.add(process: self)
    }

    public var log: String {
        logPaths.compactMap { try? String(contentsOfFile: $0, encoding: .utf8) }.joined(separator: "\n")
    }

    public var isRunning: Bool {
        hasEnded.withLock { hasEnded in
            if !hasEnded { hasEnded = waitpid(pid, nil, WNOHANG) != 0 }
            return !hasEnded
        }
    }

    public func signal(_ signal: Int32) {
        hasEnded.withLock { if !$0 { _ = kill(pid, signal) } }
    }

    /// Sends the signal and waits for the end; after `seconds`, SIGKILL.
    public func stop(_ signal: Int32 = SIGTERM, within seconds: Int = 20) {
        self.signal(signal)
        self.signal(SIGCONT)
        for _ in 0..<seconds * 500 where isRunning { usleep(2_000) }
        while isRunning {
            self.signal(SIGKILL)
            usleep(2_000)
        }
        ExitHooks.shared.remove(process: self)
    }

    /// Waits until `isReady`; a server that ends before is an error with its log.
    func waitUntil(within limit: Duration = .seconds(180), _ isReady: () throws -> Bool) async throws {
        let deadline = ContinuousClock.now + limit
        while try !isReady() {
            guard isRunning, ContinuousClock.now < deadline else {
                stop(orphanSignal)
                throw TestSupportError("the server did not start:\n\(log.suffix(4_000))")
            }
            try await Task.sleep(for: .milliseconds(10))
        }
    }
}

/// Runs a command to its end and returns what it printed; a status other than 0 is an error.
///
/// - Parameter user: whom to run it as; ignored unless the test process runs as root.
@discardableResult
public func run(
    _ command: [String], environment: [String] = [], user: String? = nil, within limit: Duration = .seconds(300)
) async throws -> String {
    let directory = try TemporaryDirectory()
    let pid = try Launcher.shared.launch(
        command, environment: environment, user: user, deathSignal: SIGKILL, logPath: directory.file("log"))
    let deadline = ContinuousClock.now + limit
    var status: Int32 = 0
    while waitpid(pid, &status, WNOHANG) == 0 {
        if ContinuousClock.now > deadline { kill(pid, SIGKILL) }
        try? await Task.sleep(for: .milliseconds(5))
    }
    let output = (try? String(contentsOfFile: directory.file("log"), encoding: .utf8)) ?? ""
    guard status == 0 else { throw TestSupportError("\(command) ended with status \(status):\n\(output)") }
    return output
}
