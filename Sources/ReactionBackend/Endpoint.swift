import ReactionModel
import RedisStore

extension RedisEndpoint {
    /// What `reactions.redis_url` says.
    init(setting text: String) throws(Failure) {
        guard !text.isEmpty else { throw .notConfigured("reactions.redis_url is not set", hint: Self.hint) }
        do throws(Problem) {
            self = try RedisEndpoint(text)
        } catch {
            throw .notConfigured("reactions.redis_url is not valid", detail: error.text, hint: Self.hint)
        }
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
        guard url.hosts.count == 1, let server = url.hosts.first, !server.name.isEmpty else {
            throw invalid(ServerURL.Problem.host.rawValue)
        }
        guard url.query.isEmpty else { throw invalid("The URL has parameters.") }
        host = String(server.name)
        port = server.port ?? (url.scheme == "https" ? 8443 : 8123)
        let shownHost = host.contains(":") ? "[\(host)]" : host
        let path = url.path.hasSuffix("/") ? url.path.dropLast() : url.path
        base = "\(url.scheme)://\(shownHost):\(port)\(path)/"
    }
}
