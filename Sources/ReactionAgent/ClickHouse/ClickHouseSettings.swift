/// Where ClickHouse is and how to log in.
public struct ClickHouseSettings: Sendable {
    /// Without a slash at the end.
    var url: String
    public var database: String
    var user: String
    var password: String
    var connectTimeout: Duration
    /// Of one request from its first to its last byte.
    public var requestTimeout: Duration

    /// For questions about a whole type, which is grouped and sorted.
    func patient() -> ClickHouseSettings {
        var patient = self
        patient.requestTimeout = max(requestTimeout, .seconds(600))
        return patient
    }

    /// Whether the URL names this machine.
    var isLoopback: Bool {
        guard let scheme = url.firstRange(of: "://") else { return false }
        let host = url[scheme.upperBound...]
        return ["127.", "[::1]", "localhost:", "localhost/"].contains { (host + "/").hasPrefix($0) }
    }

    /// What is wrong with a setting, in the operator's words; never holds the password.
    public struct Problem: Error, CustomStringConvertible {
        public var description: String
    }

    /// - Parameter url: `http://host:port` or `https://host:port`.
    public init(
        url: String, database: String, user: String = "default", password: String = "",
        connectTimeout: Duration = .seconds(5), requestTimeout: Duration = .seconds(30)
    ) throws(Problem) {
        guard url.hasPrefix("http://") || url.hasPrefix("https://"), !url.utf8.contains(where: { $0 <= 0x20 }),
            !url.contains("?")
        else { throw Problem(description: "the ClickHouse URL has to be http://host:port or https://host:port") }
        guard !database.isEmpty else { throw Problem(description: "the ClickHouse database has no name") }
        // They travel as HTTP headers.
        for (name, value) in [("user", user), ("password", password)] where value.utf8.contains(where: { $0 < 0x20 }) {
            throw Problem(description: "the ClickHouse \(name) contains a control character")
        }
        self.url = url.hasSuffix("/") ? String(url.dropLast()) : url
        self.database = database
        self.user = user
        self.password = password
        self.connectTimeout = connectTimeout
        self.requestTimeout = requestTimeout
    }
}
