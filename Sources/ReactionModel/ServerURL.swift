/// A parsed `scheme://host[:port][,host[:port]…][/path][?query]`. Credentials in it are refused: settings can be shown.
public struct ServerURL: Equatable, Sendable {
    public struct Host: Equatable, Sendable {
        public var name: Substring
        public var port: UInt16?
    }

    public var scheme: Substring
    /// At least one, whose name may be empty.
    public var hosts: [Host]
    public var path: Substring
    public var query: Substring

    public enum Problem: String, Error {
        case noScheme = "The URL has no scheme."
        case credentials = "The URL contains a user or a password."
        case host = "The URL has no valid host."
        case port = "The URL has no valid port."
        case character = "The URL contains a space or a control character."
    }

    public init(_ text: String) throws(Problem) {
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
        hosts = []
        for part in authority.split(separator: ",", omittingEmptySubsequences: false) {
            hosts.append(try Self.host(part))
        }
        if hosts.count > 1, hosts.contains(where: \.name.isEmpty) { throw .host }
    }

    private static func host(_ text: Substring) throws(Problem) -> Host {
        let name: Substring
        let after: Substring
        if text.hasPrefix("[") {
            guard let end = text.firstIndex(of: "]") else { throw .host }
            name = text[..<end].dropFirst()
            after = text[end...].dropFirst()
        } else {
            name = text.prefix { $0 != ":" }
            after = text[name.endIndex...]
        }
        if after.isEmpty { return Host(name: name, port: nil) }
        guard after.hasPrefix(":"), let number = UInt16(after.dropFirst()), number > 0 else { throw .port }
        return Host(name: name, port: number)
    }
}
