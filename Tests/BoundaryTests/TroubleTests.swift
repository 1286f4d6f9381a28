import CReactionsBoundary
import Glibc
import TestSupport
import Testing

extension Boundary {
    /// Redis down, hanging, refusing or talking nonsense.
    @Suite struct Trouble {
        private func code(_ code: rx_error_code) -> Int32 { Int32(bitPattern: code.rawValue) }

        private func caller(_ server: RedisServer) -> Caller {
            var settings = Caller.Settings()
            settings.redis = "unix://\(server.socketPath)"
            return Caller(settings)
        }

        @Test func aRestartedRedisHasAnotherStampAndIsConnectedToAgain() async throws {
            let server = try await RedisServer.start(configuration: ["appendonly yes", "appendfsync always"])
            let caller = caller(server)
            caller.truth.table = [7: 1]
            #expect(try caller.read([7]).wanted == [nil])
            try await server.restart()
            #expect(try server.connect().command("EXISTS", "reactions:1") == .integer(1))
            caller.truth.table = [7: 2]
            #expect(try caller.read([7]) == .init(flags: [7: 2], isComplete: true, wanted: [nil]))
        }

        @Test func aDeadRedisFailsReadsWithATruthAndLeavesWritesAlone() async throws {
            let server = try await RedisServer.start()
            let caller = caller(server)
            _ = try caller.read([7])
            server.kill()
            #expect(try caller.read([7], mayFill: false, truth: RX_TRUTH_NONE).flags == [7: -1])
            let failure = try #require(throws: Caller.Failure.self) { try caller.read([7]) }
            #expect(failure.code == code(RX_ERROR_REDIS_UNREACHABLE))
            #expect(caller.passesBy([event(7, 20, set: 1)]))
        }

        @Test func aDeadRedisIsLeftAloneForAWhileAndThenTriedAgain() async throws {
            let server = try await RedisServer.start()
            server.kill()
            let caller = caller(server)
            for _ in 0..<3 { #expect(throws: Caller.Failure.self) { try caller.read([7]) } }
            let failure = try #require(throws: Caller.Failure.self) { try caller.read([7]) }
            #expect(failure.hint.contains("left alone"))
            let counters = caller.takeCounters()
            #expect(counters.redis_failures == 3)
            #expect(counters.breaker_opened == 1)
            try await server.restart()
            try await eventually("a read succeeds") { (try? caller.read([7])) != nil }
        }

        @Test func aHangingRedisFailsAtTheDeadlineAndTheConnectionIsNotUsedAgain() async throws {
            let server = try await RedisServer.start()
            let caller = caller(server)
            caller.truth.table = [7: 1]
            _ = try caller.read([7])
            server.pause()
            caller.settings.connectTimeout = 100
            caller.settings.timeout = 100
            // It ends by itself: Redis is resumed afterwards.
            let failure = try #require(throws: Caller.Failure.self) { try caller.read([7]) }
            #expect(failure.code == code(RX_ERROR_REDIS_UNREACHABLE))
            #expect(throws: Caller.Failure.self) { try caller.read([8]) }
            server.resume()
            caller.settings.connectTimeout = 60_000
            caller.settings.timeout = 60_000
            try await eventually("a read succeeds") { (try? caller.read([7]).flags) == [7: 1] }
        }

        @Test func aReadEndedInMidConversationDoesNotLeaveItsReplyToTheNext() async throws {
            let server = try await RedisServer.start()
            let caller = caller(server)
            caller.truth.table = [7: 1, 8: 2]
            _ = try caller.read([7])
            server.pause()
            let cancelled = caller.beginRead([7])
            #expect(rx_step(cancelled, 0).action == Int32(bitPattern: RX_WAIT_READ.rawValue))
            rx_end(cancelled)
            server.resume()
            #expect(try caller.read([8]).flags == [8: 2])
        }

        @Test func passwordsAndUsers() async throws {
            let server = try await RedisServer.start(configuration: ["user default off", "user app on >right ~* +@all"])
            let caller = caller(server)
            func code() -> Int32? {
                do {
                    _ = try caller.read([7])
                    return nil
                } catch {
                    return (error as? Caller.Failure)?.code
                }
            }
            #expect(code() == self.code(RX_ERROR_REDIS_REFUSED))
            caller.settings.redisPassword = "right"
            #expect(code() == self.code(RX_ERROR_REDIS_REFUSED))
            caller.settings.redisUser = "app"
            #expect(code() == nil)
            caller.settings.redisPassword = "wrong"
            #expect(code() == self.code(RX_ERROR_REDIS_REFUSED))
        }

        @Test func aPasswordThatTheServerDoesNotHaveIsARefusal() async throws {
            let server = try await RedisServer.shared.value
            let caller = caller(server)
            caller.settings.redisPassword = "hunter2"
            let failure = try #require(throws: Caller.Failure.self) { try caller.read([7]) }
            #expect(failure.code == code(RX_ERROR_REDIS_REFUSED))
            #expect(!"\(failure)".contains("hunter2"))
        }

        @Test func hostNamesAndDatabases() async throws {
            let server = try await RedisServer.shared.value
            let prefix = uniqueName() + ":"
            var settings = Caller.Settings()
            settings.redis = "redis://localhost:\(server.port)/3"
            settings.prefix = prefix
            let caller = Caller(settings)
            #expect(try caller.read([7]).wanted == [nil])
            let redis = try server.connect()
            try redis.command("SELECT", "3")
            #expect(try redis.command("EXISTS", prefix + "reactions:1") == .integer(1))
            caller.settings.redis = "redis://nowhere.invalid:\(server.port)"
            let failure = try #require(throws: Caller.Failure.self) { try caller.read([7]) }
            #expect(failure.code == code(RX_ERROR_REDIS_UNREACHABLE))
        }

        @Test(arguments: [
            "HTTP/1.1 400 Bad Request\r\n\r\n", "*3\r\n$5\r\nhello\r\n", "*1000000000\r\n", "$-5\r\n",
            ":1\r\n:2\r\n:3\r\n:4\r\n:5\r\n",
            "\0\0\0\0", "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        ])
        func nonsenseIsAFailureWithinTheDeadline(answer: String) throws {
            let server = try ParrotServer(saying: answer)
            var settings = Caller.Settings()
            settings.redis = "unix://\(server.path)"
            settings.connectTimeout = 100
            settings.timeout = 100
            let caller = Caller(settings)
            caller.whileWaiting = server.serve
            let failure = try #require(throws: Caller.Failure.self) { try caller.read([7]) }
            #expect([code(RX_ERROR_REDIS_NONSENSE), code(RX_ERROR_REDIS_UNREACHABLE)].contains(failure.code))
            #expect(caller.passesBy([event(7, 20, set: 1)]))
        }

        @Test func whatIsWrongWithBothServersIsInTheProbe() async throws {
            let server = try await RedisServer.start(configuration: ["maxmemory-policy allkeys-lru"])
            let caller = caller(server)
            var probe = caller.probe()
            #expect(probe["redis_reachable"]?.isOK == true)
            #expect(probe["redis_reachable"]?.detail.hasPrefix("Redis 7.") == true)
            #expect(probe["redis_maxmemory_policy"]?.isOK == false)
            #expect(probe["redis_maxmemory_policy"]?.detail == "allkeys-lru")
            #expect(probe["clickhouse_reachable"]?.isOK == false)
            try server.connect().command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
            probe = caller.probe()
            #expect(probe["redis_maxmemory_policy"]?.isOK == true)
            #expect(probe["redis_maxmemory_policy"]?.hint == "")
            server.kill()
            probe = caller.probe()
            #expect(probe["redis_reachable"]?.isOK == false)
            #expect(probe["redis_reachable"]?.hint.isEmpty == false)
        }
    }
}

/// Says the same to everyone who connects, whatever they say. Without a thread: `serve` is called while the client waits.
final class ParrotServer {
    let path: String
    private let directory: TemporaryDirectory
    private let descriptor: Int32
    private let answer: [UInt8]
    private var clients: [Int32] = []

    init(saying answer: String) throws {
        self.answer = Array(answer.utf8)
        directory = try TemporaryDirectory()
        path = directory.file("parrot.sock")
        descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let status = withUnsafePointer(to: &address) { address in
            address.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard status == 0, listen(descriptor, 8) == 0 else { throw TestSupportError("cannot listen at \(path)") }
    }

    deinit {
        clients.forEach { close($0) }
        close(descriptor)
    }

    func serve() {
        let client = accept(descriptor, nil, nil)
        guard client >= 0 else { return }
        clients.append(client)
        _ = answer.withUnsafeBytes { send(client, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
    }
}
