import Foundation

/// The rules of the ACL users that docs/security.md recommends, for data servers and for sentinels.
public enum DocumentedACL {
    public static func dataServers() throws -> String { try rules(0) }
    public static func sentinels() throws -> String { try rules(1) }

    private static func rules(_ index: Int) throws -> String {
        let text = try String(contentsOfFile: packageRoot + "/docs/security.md", encoding: .utf8)
        let command = "    ACL SETUSER reactions on >password "
        let lines = text.split(separator: "\n").filter { $0.hasPrefix(command) }
        guard lines.indices.contains(index) else { throw TestSupportError("the documented ACL rules are gone") }
        return String(lines[index].dropFirst(command.count))
    }
}

/// Redis as the product is told of it, on one machine or more.
public protocol RedisDeployment: Sendable {
    /// For `reactions.redis_url` and `redis.url`.
    var url: String { get }
    /// Every server that has keys or may come to have them.
    var servers: [RedisServer] { get }
    /// Sends a command to who has the key, which is its second word.
    func command(_ arguments: [String]) throws -> RedisReply
}

extension RedisDeployment {
    @discardableResult
    public func command(_ arguments: String...) throws -> RedisReply { try command(arguments) }

    /// The keys of all servers that match.
    public func keys(_ pattern: String) throws -> [String] {
        try servers.flatMap { server in
            try server.connect().command("KEYS", pattern).array?.compactMap(\.string) ?? []
        }
    }
}

extension RedisServer: RedisDeployment {
    public var url: String { "unix://" + socketPath }
    public var servers: [RedisServer] { [self] }
    public func command(_ arguments: [String]) throws -> RedisReply { try connect().command(arguments) }
}

/// Ways to deploy Redis, for tests that hold for each of them.
public enum RedisKind: String, CaseIterable, Sendable {
    case server, cluster, sentinels

    /// Shared by the tests of a process; a test that stops or starves one starts its own.
    public func shared() async throws -> any RedisDeployment {
        switch self {
        case .server: try await RedisServer.shared.value
        case .cluster: try await RedisCluster.shared.value
        case .sentinels: try await RedisSentinels.shared.value
        }
    }
}
