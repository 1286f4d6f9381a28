import Glibc
import Synchronization

/// Forks every child of the test process from one thread that lives as long as the process: a parent-death signal belongs to the
/// thread that forked (prctl(2)), and the threads of Swift's pool come and go.
final class Launcher: Sendable {
    static let shared = Launcher()

    private struct Job {
        let arguments: [String]
        let environment: [String]
        let logPath: String
        let finish: @Sendable (Result<pid_t, TestSupportError>) -> Void
    }
    private let jobs = Mutex<[Job]>([])
    private let wanted = Semaphore()

    private init() {
        var thread = pthread_t()
        pthread_create(&thread, nil, { _ in Launcher.shared.work() }, nil)
    }

    /// - Parameters:
    ///   - user: whom to run the command as; ignored unless the test process runs as root.
    ///   - deathSignal: what the command gets when the test process dies, SIGQUIT or SIGKILL.
    ///   - logPath: where its standard output and error are appended.
    func launch(
        _ command: [String], environment: [String], user: String?, deathSignal: Int32, logPath: String
    ) throws -> pid_t {
        var arguments = ["/usr/bin/setpriv", "--pdeathsig", deathSignal == SIGQUIT ? "QUIT" : "KILL"]
        if let user, getuid() == 0 {
            arguments += ["--reuid", user, "--regid", user, "--init-groups"]
        }
        let inherited = ["PATH", "HOME", "LANG"].compactMap { name in
            getenv(name).map { name + "=" + String(cString: $0) }
        }
        let done = Semaphore()
        let result = Mutex<Result<pid_t, TestSupportError>?>(nil)
        let job = Job(arguments: arguments + ["--"] + command, environment: inherited + environment, logPath: logPath) {
            answer in
            result.withLock { $0 = answer }
            done.signal()
        }
        jobs.withLock { $0.append(job) }
        wanted.signal()
        done.wait()
        guard let answer = result.withLock({ $0 }) else { throw TestSupportError("the launcher did not answer") }
        return try answer.get()
    }

    private func work() -> Never {
        while true {
            wanted.wait()
            let job = jobs.withLock { $0.removeFirst() }
            job.finish(spawn(job))
        }
    }

    private func spawn(_ job: Job) -> Result<pid_t, TestSupportError> {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, job.logPath, O_WRONLY | O_CREAT | O_APPEND, 0o644)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        // hiredis does not mark its sockets close-on-exec: a server would keep a test's connection open.
        for descriptor in Int32(3)..<256 { posix_spawn_file_actions_addclose(&actions, descriptor) }

        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP))

        var arguments = job.arguments.map { strdup($0) } + [nil]
        var environment = job.environment.map { strdup($0) } + [nil]
        defer { for text in arguments + environment { free(text) } }
        var pid = pid_t()
        let status = posix_spawn(&pid, job.arguments[0], &actions, &attributes, &arguments, &environment)
        guard status == 0 else {
            return .failure(TestSupportError("cannot start \(job.arguments[0]): \(String(cString: strerror(status)))"))
        }
        return .success(pid)
    }
}

/// A counting semaphore for the launcher's thread.
private final class Semaphore: Sendable {
    // Safe because: allocated once, and sem_t is made for concurrent use.
    nonisolated(unsafe) private let semaphore: UnsafeMutablePointer<sem_t>

    init() {
        semaphore = .allocate(capacity: 1)
        sem_init(semaphore, 0, 0)
    }

    deinit {
        sem_destroy(semaphore)
        semaphore.deallocate()
    }

    func signal() { sem_post(semaphore) }
    func wait() { while sem_wait(semaphore) != 0 {} }
}
