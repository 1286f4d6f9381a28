import ClickHouseStore
import Glibc
import Pipeline

/// Requests to ClickHouse and what their answers mean. For one thread at a time.
final class ClickHouseClient {
    typealias Setting = (name: String, value: String)

    let settings: ClickHouseSettings
    /// Of every request, from when the cluster is known.
    var clusterSettings: [Setting] = []
    private let connection: HTTPConnection
    private let gzip: Gzip
    /// For one request.
    private var timeout: Duration
    /// Enough of an error's text to recognise it in the log.
    private static let longestMessage = 500
    /// A table of a cluster takes one insert at a time and refuses others until its quorum is there: mostly milliseconds.
    private static let previousQuorumIsMissing = 286
    private static let quorumPatience: Duration = .seconds(2)

    init(_ settings: ClickHouseSettings) throws(SinkError) {
        self.settings = settings
        self.timeout = settings.requestTimeout
        self.connection = try HTTPConnection(settings)
        self.gzip = Gzip(compresses: !settings.isLoopback)
    }

    /// Runs a query or a command and returns its whole answer, TabSeparated unless it says otherwise.
    ///
    /// - Parameter inDatabase: false for what has to work before the database exists.
    func query(
        _ text: String, settings querySettings: [Setting] = [], queryID: String? = nil, inDatabase: Bool = true
    ) throws(SinkError) -> [UInt8] {
        // The server holds the answer back until it is whole, so that an error in the middle has its status.
        var parameters: [Setting] = [("wait_end_of_query", "1")]
        if inDatabase { parameters.append(("database", settings.database)) }
        if let queryID { parameters.append(("query_id", queryID)) }
        return try post(parameters + querySettings, body: Array(text.utf8), isGzip: false)
    }

    func rows(
        _ text: String, settings querySettings: [Setting] = [], inDatabase: Bool = true
    ) throws(SinkError) -> [[String]] {
        TabSeparated.rows(try query(text, settings: querySettings, inDatabase: inDatabase))
    }

    /// Runs an INSERT whose rows are in the body.
    func insert(_ text: String, rows: [UInt8], settings querySettings: [Setting], queryID: String) throws(SinkError) {
        guard let body = gzip.compress(rows) else {
            throw SinkError(disposition: .retry, message: "cannot compress a body of \(rows.count) bytes")
        }
        let parameters: [Setting] = [("database", settings.database), ("query_id", queryID), ("query", text)]
        let deadline = ContinuousClock.now + Self.quorumPatience
        while true {
            do {
                _ = try post(parameters + querySettings, body: body, isGzip: true)
                return
            } catch {
                guard error.code == Self.previousQuorumIsMissing, ContinuousClock.now < deadline else { throw error }
                usleep(10_000)
            }
        }
    }

    /// Gives each request of the body the time that a question about a whole type may take.
    func patiently<Answer>(_ body: () throws(SinkError) -> Answer) throws(SinkError) -> Answer {
        let before = timeout
        timeout = settings.patient().requestTimeout
        defer { timeout = before }
        return try body()
    }

    private func post(_ parameters: [Setting], body: [UInt8], isGzip: Bool) throws(SinkError) -> [UInt8] {
        let all = parameters + clusterSettings
        let query = all.map { $0.name + "=" + $0.value.percentEncoded }.joined(separator: "&")
        let answer = try connection.post(settings.url + "/?" + query, body: body, isGzip: isGzip, timeout: timeout)
        guard answer.status != 200 else { return answer.body }
        let code = ServerFailure.code(header: answer.exceptionCode, body: answer.body)
        let disposition: SinkError.Disposition =
            switch ServerFailure(status: answer.status, code: code) {
            case .passing: .retry
            case .content: .rejectBatch
            case .configuration: .stop
            }
        throw SinkError(
            disposition: disposition, status: answer.status, code: code,
            message: String(decoding: answer.body.prefix(Self.longestMessage), as: UTF8.self))
    }
}

extension String {
    /// Everything but RFC 3986's unreserved characters as %XX.
    fileprivate var percentEncoded: String {
        let digits = Array("0123456789ABCDEF".utf8)
        var encoded: [UInt8] = []
        for byte in utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
                UInt8(ascii: "~"):
                encoded.append(byte)
            default:
                encoded += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            }
        }
        return String(decoding: encoded, as: UTF8.self)
    }
}
