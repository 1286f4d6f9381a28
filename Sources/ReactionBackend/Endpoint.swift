import Glibc

/// A parsed `scheme://host[:port][/path][?query]`. Credentials in it are refused: settings can be shown, the secrets file cannot.
struct ServerURL: Equatable {
    var scheme: Substring
    var host: Substring
    var port: UInt16?
    var path: Substring
    var query: Substring

    enum Problem: String, Error {
        case noScheme = "The URL has no scheme."
        case credentials = "The URL contains a user or a password."
        case host = "The URL has no valid host."
        case port = "The URL has no valid port."
        case character = "The URL contains a space or a control character."
    }

    init(_ text: String) throws(Problem) {
        guard text.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7f }) else { throw .character }
        guard let colon = text.firstIndex(of: ":"), text[colon...].hasPrefix("://"), colon > text.startIndex else {
            throw .noScheme
        }
        scheme = text[..<colon]
        var rest = text[text.index(colon, offsetBy: 3)...]
        query = rest.firstIndex(of: "?").map { rest[rest.index(after: $0)...] } ?? ""
        rest = rest.prefix { $0 != "?" }
        let authority = rest.prefix { $0 != "/" }
        path = rest[authority.endIndex...]
        guard !authority.contains("@") else { throw .credentials }
        var after = authority[...]
        if authority.hasPrefix("[") {
            guard let end = authority.firstIndex(of: "]") else { throw .host }
            host = authority[..<end].dropFirst()
            after = authority[authority.index(after: end)...]
        } else {
            host = authority.prefix { $0 != ":" }
            after = authority[host.endIndex...]
        }
        if after.isEmpty {
            port = nil
        } else {
            guard after.hasPrefix(":"), let number = UInt16(after.dropFirst()), number > 0 else { throw .port }
            port = number
        }
    }
}

/// Where Redis listens.
struct RedisEndpoint: Equatable {
    enum Place: Equatable {
        case tcp(host: String, port: UInt16)
        case unixSocket(path: String)
    }

    var place: Place
    var database: Int64

    /// `redis://host[:port][/database]` or `unix:///path[?db=database]`.
    init(_ text: String) throws(Failure) {
        let hint = "Use redis://host:port/database or unix:///path?db=database."
        func invalid(_ detail: String) -> Failure {
            .notConfigured("reactions.redis_url is not valid", detail: detail, hint: hint)
        }
        guard !text.isEmpty else { throw .notConfigured("reactions.redis_url is not set", hint: hint) }
        let url: ServerURL
        do throws(ServerURL.Problem) { url = try ServerURL(text) } catch { throw invalid(error.rawValue) }
        let database: Substring
        switch url.scheme {
        case "redis":
            guard !url.host.isEmpty else { throw invalid(ServerURL.Problem.host.rawValue) }
            place = .tcp(host: String(url.host), port: url.port ?? 6379)
            database = url.path.dropFirst()
        case "unix":
            guard url.host.isEmpty, url.path.count > 1 else { throw invalid("The URL has no path of a socket.") }
            guard url.path.utf8.count < MemoryLayout.size(ofValue: sockaddr_un().sun_path) else {
                throw invalid("The path of the socket is too long.")
            }
            place = .unixSocket(path: String(url.path))
            guard url.query.isEmpty || url.query.hasPrefix("db=") else {
                throw invalid("The URL has an unknown parameter.")
            }
            database = url.query.dropFirst(3)
        default:
            throw invalid("The scheme is neither redis nor unix.")
        }
        guard let number = database.isEmpty ? 0 : Int64(database), number >= 0 else {
            throw invalid("The number of the database is not valid.")
        }
        self.database = number
    }
}

/// Where ClickHouse listens for HTTP.
struct ClickHouseEndpoint: Equatable {
    var base: String
    var host: String
    var port: UInt16

    init(_ text: String) throws(Failure) {
        let hint = "Use http://host:8123 or https://host:8443."
        func invalid(_ detail: String) -> Failure {
            .notConfigured("reactions.clickhouse_url is not valid", detail: detail, hint: hint)
        }
        guard !text.isEmpty else { throw .notConfigured("reactions.clickhouse_url is not set", hint: hint) }
        let url: ServerURL
        do throws(ServerURL.Problem) { url = try ServerURL(text) } catch { throw invalid(error.rawValue) }
        guard url.scheme == "http" || url.scheme == "https" else {
            throw invalid("The scheme is neither http nor https.")
        }
        guard !url.host.isEmpty else { throw invalid(ServerURL.Problem.host.rawValue) }
        guard url.query.isEmpty else { throw invalid("The URL has parameters.") }
        host = String(url.host)
        port = url.port ?? (url.scheme == "https" ? 8443 : 8123)
        let shownHost = host.contains(":") ? "[\(host)]" : host
        let path = url.path.hasSuffix("/") ? url.path.dropLast() : url.path
        base = "\(url.scheme)://\(shownHost):\(port)\(path)/"
    }
}
