public import TestSupport

/// A Redis of the test's own, and a connection to it.
struct PrivateRedis {
    private let server: RedisServer
    private let connection: RedisConnection

    /// - Parameter configuration: directives and their arguments, as in redis.conf.
    init(_ configuration: String...) async throws {
        server = try await RedisServer.start(configuration: configuration)
        connection = try server.connect()
    }

    @discardableResult
    func callAsFunction(_ arguments: [String]) throws -> RedisReply { try connection.command(arguments) }

    @discardableResult
    func callAsFunction(_ arguments: String...) throws -> RedisReply { try self(arguments) }

    /// The fields of a hash.
    func fields(_ key: String) throws -> [String: String] {
        let texts = (try self("HGETALL", key).array ?? []).map { $0.string ?? "" }
        return Dictionary(
            uniqueKeysWithValues: stride(from: 0, to: texts.count, by: 2).map { (texts[$0], texts[$0 + 1]) })
    }
}

extension RedisReply: ExpressibleByIntegerLiteral, ExpressibleByStringLiteral, ExpressibleByArrayLiteral,
    ExpressibleByNilLiteral
{
    public init(nilLiteral: ()) { self = .null }
    public init(integerLiteral value: Int64) { self = .integer(value) }
    public init(stringLiteral value: String) { self = .string(value) }
    public init(arrayLiteral elements: RedisReply...) { self = .array(elements) }
}
