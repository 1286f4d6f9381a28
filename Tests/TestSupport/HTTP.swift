import CCurl
public import Foundation

/// A blocking HTTP exchange on a connection of its own.
public enum HTTP {
    public struct Response: Sendable {
        public let status: Int
        /// Names in lower case.
        public let headers: [String: String]
        public let body: Data
        public var text: String { String(decoding: body, as: UTF8.self) }
    }

    private final class Received {
        var body = Data()
        var headers: [String: String] = [:]
    }

    /// - Parameter body: posted if given; without one the request is a GET.
    public static func request(
        _ url: String, headers: [String: String] = [:], body: Data? = nil, timeoutSeconds: Int = 60
    ) throws -> Response {
        guard let handle = curl_easy_init() else { throw TestSupportError("libcurl is out of memory") }
        defer { curl_easy_cleanup(handle) }
        var list: UnsafeMutablePointer<curl_slist>? = curl_slist_append(nil, "Expect:")
        for (name, value) in headers { list = curl_slist_append(list, "\(name): \(value)") }
        defer { curl_slist_free_all(list) }
        let received = Received()
        let context = Unmanaged.passUnretained(received).toOpaque()
        let sent = body.map { Array($0) } ?? []

        let result = sent.withUnsafeBytes { bytes in
            ccurl_setopt_string(handle, CURLOPT_URL, url)
            ccurl_setopt_list(handle, CURLOPT_HTTPHEADER, list)
            ccurl_setopt_long(handle, CURLOPT_NOSIGNAL, 1)
            ccurl_setopt_long(handle, CURLOPT_TIMEOUT, timeoutSeconds)
            ccurl_setopt_string(handle, CURLOPT_NOPROXY, "*")
            if body != nil {
                ccurl_setopt_long(handle, CURLOPT_POST, 1)
                ccurl_setopt_int64(handle, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(bytes.count))
                // Null would make libcurl ask for a read callback.
                ccurl_setopt_pointer(
                    handle, CURLOPT_POSTFIELDS,
                    UnsafeMutableRawPointer(mutating: bytes.baseAddress ?? UnsafeRawPointer(bitPattern: 1)))
            }
            ccurl_setopt_pointer(handle, CURLOPT_WRITEDATA, context)
            ccurl_setopt_callback(handle, CURLOPT_WRITEFUNCTION) { bytes, size, count, context in
                guard let bytes, let context else { return 0 }
                Unmanaged<Received>.fromOpaque(context).takeUnretainedValue().body
                    .append(contentsOf: UnsafeRawBufferPointer(start: bytes, count: size * count))
                return size * count
            }
            ccurl_setopt_pointer(handle, CURLOPT_HEADERDATA, context)
            ccurl_setopt_callback(handle, CURLOPT_HEADERFUNCTION) { bytes, size, count, context in
                guard let bytes, let context else { return 0 }
                let line = String(decoding: UnsafeRawBufferPointer(start: bytes, count: size * count), as: UTF8.self)
                let parts = line.split(separator: ":", maxSplits: 1)
                if parts.count == 2 {
                    Unmanaged<Received>.fromOpaque(context).takeUnretainedValue()
                        .headers[parts[0].lowercased()] = parts[1].trimmingCharacters(in: .whitespacesAndNewlines)
                }
                return size * count
            }
            return curl_easy_perform(handle)
        }
        guard result == CURLE_OK else {
            throw TestSupportError("\(url): \(String(cString: curl_easy_strerror(result)))")
        }
        var status = 0
        ccurl_getinfo_long(handle, CURLINFO_RESPONSE_CODE, &status)
        return Response(status: status, headers: received.headers, body: received.body)
    }

    /// Percent-encodes everything but unreserved characters.
    public static func encode(_ text: String) -> String {
        let unreserved = CharacterSet(charactersIn: "-._~").union(.alphanumerics)
        return text.addingPercentEncoding(withAllowedCharacters: unreserved) ?? text
    }
}

/// What speaks ClickHouse's HTTP interface: a server or the chDB gateway.
public protocol ClickHouseEndpoint: Sendable {
    var url: String { get }
    var user: String { get }
    var password: String { get }
    /// "18.16.1", "26.9".
    var engine: String { get }
    /// Over which the mirror's tables are spread; nil: over none.
    var cluster: String? { get }
    func stop()
    func restart() async throws
}

/// An error answer of ClickHouse.
public struct ClickHouseError: Error {
    public let status: Int
    public let code: Int
    public let message: String
}

extension ClickHouseEndpoint {
    public var cluster: String? { nil }

    /// Runs one query and returns the answer, TabSeparated unless the query says otherwise.
    @discardableResult
    public func query(
        _ sql: String, database: String = "default", settings: [String: String] = [:], body: Data? = nil
    ) throws -> String {
        var parameters = settings.merging(["database": database]) { old, _ in old }
        if body != nil { parameters["query"] = sql }
        let encoded = parameters.sorted { $0.key < $1.key }.map { "\($0)=\(HTTP.encode($1))" }
        let response = try HTTP.request(
            url + "/?" + encoded.joined(separator: "&"),
            headers: ["X-ClickHouse-User": user, "X-ClickHouse-Key": password], body: body ?? Data(sql.utf8))
        guard response.status == 200 else {
            throw ClickHouseError(
                status: response.status, code: response.headers["x-clickhouse-exception-code"].flatMap { Int($0) } ?? 0,
                message: response.text)
        }
        return response.text
    }

    /// The rows of a query, as texts.
    public func rows(_ sql: String, database: String = "default") throws -> [[String]] {
        try query(sql, database: database).split(separator: "\n").map { line in
            line.split(separator: "\t", omittingEmptySubsequences: false).map { String($0) }
        }
    }

    /// Makes a database with a name of its own and returns the name.
    public func createDatabase() throws -> String {
        let name = uniqueName()
        try query("CREATE DATABASE \(name)")
        return name
    }
}
