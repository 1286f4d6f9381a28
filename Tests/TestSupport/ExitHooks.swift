import Foundation
import Glibc
import Synchronization

/// What is left at the end of the test process: servers are killed first, then their directories go. Swift Testing leaves through
/// `exit`, so values in globals are never deinitialised.
final class ExitHooks: Sendable {
    static let shared = ExitHooks()

    private struct State {
        var processes: [ObjectIdentifier: ServerProcess] = [:]
        var directories: Set<String> = []
    }
    private let state = Mutex(State())

    private init() {
        atexit { ExitHooks.shared.run() }
    }

    func add(process: ServerProcess) {
        state.withLock { $0.processes[ObjectIdentifier(process)] = process }
    }

    func remove(process: ServerProcess) {
        state.withLock { $0.processes[ObjectIdentifier(process)] = nil }
    }

    func add(directory: String) {
        state.withLock { _ = $0.directories.insert(directory) }
    }

    func remove(directory: String) {
        state.withLock { _ = $0.directories.remove(directory) }
    }

    private func run() {
        let (processes, directories) = state.withLock { ($0.processes.values.map { $0 }, $0.directories) }
        for process in processes { process.stop(process.orphanSignal) }
        for directory in directories { try? FileManager.default.removeItem(atPath: directory) }
    }
}
