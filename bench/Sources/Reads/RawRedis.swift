import CHiredis
import Glibc
import TestSupport

/// The floor: hiredis, one command, nothing done with the answer.
final class RawRedis {
    private let connection: RedisConnection
    private let prefix: String

    init(_ stack: Stack) throws {
        connection = try stack.redis.connect()
        prefix = stack.prefix
    }

    /// A map's key, as the default template renders it.
    func key(_ user: Int64) -> String { "\(prefix)reactions:\(user)" }

    /// A command whose arguments are formatted in advance.
    final class Command {
        fileprivate let arguments: [UnsafePointer<CChar>?]
        fileprivate let lengths: [Int]

        init(_ texts: [String]) {
            arguments = texts.map { UnsafePointer(strdup($0)) }
            lengths = texts.map(\.utf8.count)
        }

        deinit { for argument in arguments { free(UnsafeMutableRawPointer(mutating: argument)) } }
    }

    func hmget(_ view: PageView) -> Command { Command(["HMGET", key(view.user)] + view.ids.map(String.init)) }
    func hgetall(_ view: PageView) -> Command { Command(["HGETALL", key(view.user)]) }

    func run(_ command: Command) throws {
        var arguments = command.arguments
        guard
            let reply = redisCommandArgv(connection.context, Int32(arguments.count), &arguments, command.lengths)
        else { throw BenchmarkError("Redis did not answer") }
        let type = reply.assumingMemoryBound(to: redisReply.self).pointee.type
        freeReplyObject(reply)
        guard type == REDIS_REPLY_ARRAY else { throw BenchmarkError("Redis did not answer with an array") }
    }

    func encoding(of user: Int64) throws -> String {
        try connection.command("OBJECT", "ENCODING", key(user)).string ?? "none"
    }

    func memory(of user: Int64) throws -> Int64 {
        try connection.command("MEMORY", "USAGE", key(user), "SAMPLES", "0").integer ?? 0
    }
}
