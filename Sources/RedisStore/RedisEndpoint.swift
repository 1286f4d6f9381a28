public import ReactionModel

/// Where one server listens.
public enum RedisPlace: Hashable, Sendable {
    case tcp(host: String, port: UInt16)
    case unixSocket(path: String)

    /// What a server says of where another one is: without a host, where it is itself; nil if it does not know.
    public static func announced(host: String, port: UInt16, by server: RedisPlace) -> RedisPlace? {
        guard host.isEmpty else { return host == "?" ? nil : .tcp(host: host, port: port) }
        guard case .tcp(let host, _) = server else { return .tcp(host: "127.0.0.1", port: port) }
        return .tcp(host: host, port: port)
    }
}

/// What a Redis URL says: `redis://host[:port][,host[:port]…][/database]`, `unix:///path[?db=database]` or
/// `redis-sentinel://host[:port][,host[:port]…]/master[?db=database]`.
public struct RedisEndpoint: Equatable, Sendable {
    public enum Way: Equatable, Sendable {
        /// A server, or some of a cluster's. That it is a cluster, the first of them that answers says.
        case servers([RedisPlace])
        /// Sentinels, who know where the master is.
        case sentinels([RedisPlace], master: String)
    }

    public var way: Way
    public var database: Int64

    public enum Problem: Error, Equatable {
        case url(ServerURL.Problem)
        case scheme
        case path
        case longPath
        case parameter
        case database
        case master

        /// As a sentence.
        public var text: String {
            switch self {
            case .url(let problem): problem.rawValue
            case .scheme: "The scheme is none of redis, redis-sentinel and unix."
            case .path: "The URL has no path of a socket."
            case .longPath: "The path of the socket is too long."
            case .parameter: "The URL has an unknown parameter."
            case .database: "The number of the database is not valid."
            case .master: "The URL does not name the master, as in redis-sentinel://host:26379/mymaster."
            }
        }
    }

    public static let hint =
        "Use redis://host:port/database, redis://host:port,host:port for a cluster, "
        + "redis-sentinel://host:port,host:port/master?db=database or unix:///path?db=database."
    /// As many bytes as a socket's path has place for, with the NUL behind it.
    private static let longestPath = 107

    public init(_ text: String) throws(Problem) {
        let url: ServerURL
        do throws(ServerURL.Problem) { url = try ServerURL(text) } catch { throw .url(error) }
        switch url.scheme {
        case "redis":
            guard url.query.isEmpty else { throw .parameter }
            way = .servers(try Self.places(url, standardPort: 6379))
            database = try Self.database(url.path.dropFirst())
        case "redis-sentinel":
            let master = url.path.dropFirst()
            guard !master.isEmpty, !master.contains("/") else { throw .master }
            way = .sentinels(try Self.places(url, standardPort: 26379), master: String(master))
            database = try Self.database(try Self.databaseParameter(url.query))
        case "unix":
            guard url.hosts.allSatisfy(\.name.isEmpty), url.path.count > 1 else { throw .path }
            guard url.path.utf8.count <= Self.longestPath else { throw .longPath }
            way = .servers([.unixSocket(path: String(url.path))])
            database = try Self.database(try Self.databaseParameter(url.query))
        default:
            throw .scheme
        }
    }

    private static func places(_ url: ServerURL, standardPort: UInt16) throws(Problem) -> [RedisPlace] {
        guard url.hosts.allSatisfy({ !$0.name.isEmpty }) else { throw .url(.host) }
        return url.hosts.map { .tcp(host: String($0.name), port: $0.port ?? standardPort) }
    }

    private static func databaseParameter(_ query: Substring) throws(Problem) -> Substring {
        guard query.isEmpty || query.hasPrefix("db=") else { throw .parameter }
        return query.dropFirst(3)
    }

    private static func database(_ text: Substring) throws(Problem) -> Int64 {
        guard let number = text.isEmpty ? 0 : Int64(text), number >= 0 else { throw .database }
        return number
    }
}
