import CCurl
import CReactionsBoundary
import ClickHouseStore

/// The backend's one connection to ClickHouse, over libcurl's multi interface and kept alive between requests.
///
/// A conversation is `ask`, then `advance` until it returns nil, then `body`. `cancel` gives a request up; libcurl then closes the
/// connection. libcurl would resolve a host name in a thread of its own, which a backend must not have: the name is resolved here and
/// handed over.
///
/// Safe because: libcurl calls back only within calls of this class, with the pointer to this object that it was given, and both
/// handles are freed with it.
final class ClickHouseLink {
    /// More than this is not an answer to any of our queries.
    private static let byteLimit = 256 << 20
    private static let refusalCodes: Set<Int64> = [192, 193, 194, 291, 497, 516]
    /// UNKNOWN_TABLE and UNKNOWN_DATABASE.
    private static let missingCodes: Set<Int64> = [60, 81]

    private let settings: Settings
    private let tally: Tally
    private var breaker = Breaker()
    private var lastFailure: Failure?

    private var multi: UnsafeMutableRawPointer?
    private var easy: UnsafeMutableRawPointer?
    private var headers: UnsafeMutablePointer<curl_slist>?
    private var addresses: UnsafeMutablePointer<curl_slist>?

    private(set) var isTalking = false
    private var deadline = Deadline(after: 0, from: 0)
    /// What libcurl waits for; two sockets while it tries IPv6 and IPv4 at once.
    private var watched: [(socket: curl_socket_t, events: Int32)] = []
    private(set) var body: [UInt8] = []
    private var isTooLong = false
    private var exceptionCode: Int64 = 0

    init(settings: Settings, tally: Tally) {
        self.settings = settings
        self.tally = tally
    }

    deinit {
        close()
    }

    /// Sends a query; `advance` until nil, then its answer is `body`.
    ///
    /// - Parameter format: of the answer, one of ClickHouse's; nil if the query says it.
    func ask(
        _ query: [UInt8], format: StaticString? = "RowBinary", at now: Int64, ignoringBreaker: Bool = false
    ) throws(Failure) {
        guard !isTalking else { throw .brokenContract("A query was sent to ClickHouse within another.") }
        let endpoint = try settings.clickHouse.get()
        guard breaker.allowsAttempt(at: now) || ignoringBreaker else {
            var failure = lastFailure ?? .clickHouseUnreachable("")
            failure.hint = "ClickHouse has failed repeatedly and is left alone for a moment."
            throw failure
        }
        do throws(Failure) {
            try prepare(endpoint)
        } catch {
            throw recorded(error, now)
        }
        guard let easy, let multi else { throw .brokenContract("libcurl has no handle.") }
        var text = query
        format?.withUTF8Buffer { format in
            text.append(contentsOf: " FORMAT ".utf8)
            text.append(contentsOf: format)
        }
        ccurl_setopt_long(easy, CURLOPT_POSTFIELDSIZE, text.count)
        text.withUnsafeMutableBytes { _ = ccurl_setopt_pointer(easy, CURLOPT_COPYPOSTFIELDS, $0.baseAddress) }
        body.removeAll(keepingCapacity: true)
        isTooLong = false
        exceptionCode = 0
        deadline = Deadline(after: settings.clickHouseTimeout, from: now)
        guard curl_multi_add_handle(multi, easy) == CURLM_OK else { throw .brokenContract("libcurl took no request.") }
        isTalking = true
        tally.counters.clickhouse_requests &+= 1
    }

    /// Moves bytes. Returns what it waits for, or nil when the answer is complete.
    func advance(_ now: Int64) throws(Failure) -> Wait? {
        do throws(Failure) { return try move(now) } catch { throw recorded(error, now) }
    }

    /// Gives up what is going on.
    func cancel() {
        if isTalking { curl_multi_remove_handle(multi, easy) }
        isTalking = false
    }

    func close() {
        cancel()
        curl_easy_cleanup(easy)
        curl_multi_cleanup(multi)
        curl_slist_free_all(headers)
        curl_slist_free_all(addresses)
        (easy, multi, headers, addresses) = (nil, nil, nil, nil)
        watched.removeAll()
    }

    private func move(_ now: Int64) throws(Failure) -> Wait? {
        guard isTalking else { throw .brokenContract("Nothing was asked of ClickHouse.") }
        var running: Int32 = 0
        for entry in watched { curl_multi_socket_action(multi, entry.socket, 0, &running) }
        curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running)

        var left: Int32 = 0
        while let message = curl_multi_info_read(multi, &left)?.pointee {
            guard message.msg == CURLMSG_DONE else { continue }
            cancel()
            try judge(message.data.result)
            breaker.succeeded()
            return nil
        }
        guard let remaining = deadline.remaining(now) else {
            throw .clickHouseUnreachable("The server did not answer in time.")
        }
        var timer = -1
        curl_multi_timeout(multi, &timer)
        return wait.atMost(timer < 0 ? remaining : min(remaining, max(Int64(timer), 1)))
    }

    /// C waits for one socket. While there is another, or the one is watched for two things, all are looked at every few milliseconds.
    private var wait: Wait {
        guard let entry = watched.first else { return .timer(.max) }
        let polling: Int64 = watched.count > 1 || entry.events == CURL_POLL_INOUT ? 10 : .max
        return entry.events == CURL_POLL_IN ? .readable(entry.socket, polling) : .writable(entry.socket, polling)
    }

    private func judge(_ result: CURLcode) throws(Failure) {
        guard !isTooLong else { throw .clickHouseNonsense("The answer is too long.") }
        guard result == CURLE_OK else {
            let detail = "\(String(cString: curl_easy_strerror(result)))."
            switch result {
            case CURLE_UNSUPPORTED_PROTOCOL, CURLE_WEIRD_SERVER_REPLY, CURLE_BAD_CONTENT_ENCODING:
                throw .clickHouseNonsense(detail)
            default: throw .clickHouseUnreachable(detail)
            }
        }
        var status = 0
        ccurl_getinfo_long(easy, CURLINFO_RESPONSE_CODE, &status)
        guard status != 200 || exceptionCode != 0 else { return }
        let code = exceptionCode != 0 ? exceptionCode : ClickHouseError.code(in: body)
        let text = String(decoding: body.prefix(300), as: UTF8.self)
        let detail = "HTTP status \(status), code \(code): \(text)"
        if Self.refusalCodes.contains(code) || status == 401 || status == 403 { throw .clickHouseRefused(detail) }
        if code == 0 { throw .clickHouseNonsense("HTTP status \(status) and no error code of ClickHouse.") }
        let isMissing = Self.missingCodes.contains(code)
        throw .clickHouseFailed(detail, hint: isMissing ? "Run reactiond init-clickhouse." : "")
    }

    private func recorded(_ failure: Failure, _ now: Int64) -> Failure {
        guard failure.code != RX_ERROR_INTERNAL, failure.code != RX_ERROR_NOT_CONFIGURED else { return failure }
        tally.counters.clickhouse_failures &+= 1
        cancel()
        // An error of a query says nothing about the server.
        guard failure.code != RX_ERROR_CLICKHOUSE_FAILED else { return failure }
        lastFailure = failure
        close()
        if breaker.failed(at: now) { tally.counters.breaker_opened &+= 1 }
        return failure
    }

    // MARK: libcurl

    private func prepare(_ endpoint: ClickHouseEndpoint) throws(Failure) {
        guard easy == nil else { return }
        let resolved = ResolvedAddress.resolve(host: endpoint.host, port: endpoint.port)
        guard !resolved.isEmpty else { throw .clickHouseUnreachable("The host name cannot be resolved.") }
        easy = curl_easy_init()
        multi = curl_multi_init()
        guard let easy, let multi else {
            throw .clickHouseUnreachable("libcurl.so.4 cannot be used: it is not installed, or there is no memory.")
        }
        let context = Unmanaged.passUnretained(self).toOpaque()

        let shown = resolved.map { $0.family == AF_INET6 ? "[\($0.numericHost)]" : $0.numericHost }
        addresses = curl_slist_append(nil, "\(endpoint.host):\(endpoint.port):\(shown.joined(separator: ","))")
        ccurl_setopt_list(easy, CURLOPT_RESOLVE, addresses)

        // No "Expect: 100-continue", which costs a round trip or a second of waiting.
        headers = curl_slist_append(nil, "Expect:")
        if !settings.clickHouseUser.isEmpty {
            headers = curl_slist_append(headers, "X-ClickHouse-User: \(settings.clickHouseUser)")
        }
        if !settings.clickHousePassword.isEmpty {
            headers = curl_slist_append(headers, "X-ClickHouse-Key: \(settings.clickHousePassword)")
        }
        ccurl_setopt_list(easy, CURLOPT_HTTPHEADER, headers)

        // wait_end_of_query: the status tells of every error, also of one that comes up after the first rows.
        var url = "\(endpoint.base)?wait_end_of_query=1"
        // What nobody waits for any more the server gives up, too.
        url += "&max_execution_time=\((max(settings.clickHouseTimeout, 0) &+ 999) / 1_000)"
        for setting in MirrorCluster.readSettings { url += "&\(setting.name)=\(setting.value)" }
        if !settings.clickHouseDatabase.isEmpty { url += "&database=\(percentEncoded(settings.clickHouseDatabase))" }
        ccurl_setopt_string(easy, CURLOPT_URL, url)
        ccurl_setopt_string(easy, CURLOPT_PROXY, "")
        ccurl_setopt_long(easy, CURLOPT_NOSIGNAL, 1)
        ccurl_setopt_long(easy, CURLOPT_POST, 1)
        ccurl_setopt_long(easy, CURLOPT_TCP_KEEPALIVE, 1)
        ccurl_setopt_long(easy, CURLOPT_CONNECTTIMEOUT_MS, Int(settings.clickHouseTimeout))
        ccurl_setopt_callback(easy, CURLOPT_WRITEFUNCTION, receiveBody)
        ccurl_setopt_pointer(easy, CURLOPT_WRITEDATA, context)
        ccurl_setopt_callback(easy, CURLOPT_HEADERFUNCTION, receiveHeader)
        ccurl_setopt_pointer(easy, CURLOPT_HEADERDATA, context)
        ccurl_multi_setopt_watch_callback(multi, watchSocket)
        ccurl_multi_setopt_pointer(multi, CURLMOPT_SOCKETDATA, context)
    }

    fileprivate func received(_ bytes: UnsafeRawBufferPointer) -> Bool {
        isTooLong = body.count &+ bytes.count > Self.byteLimit
        if !isTooLong { body.append(contentsOf: bytes) }
        return !isTooLong
    }

    fileprivate func receivedHeader(_ bytes: UnsafeRawBufferPointer) {
        if let code = ClickHouseError.code(inHeader: bytes) { exceptionCode = code }
    }

    fileprivate func watch(_ socket: curl_socket_t, _ events: Int32) {
        watched.removeAll { $0.socket == socket }
        if events != CURL_POLL_REMOVE { watched.append((socket, events)) }
    }
}

/// ClickHouse's error number, wherever the server's age puts it.
enum ClickHouseError {
    /// The body of an error starts `Code: 60, …` or `Code: 60. …`; 0 if it does not.
    static func code(in body: [UInt8]) -> Int64 {
        let prefix = "Code: ".utf8
        guard body.starts(with: prefix) else { return 0 }
        return number(body.dropFirst(prefix.count).prefix { $0 != UInt8(ascii: ",") && $0 != UInt8(ascii: ".") }) ?? 0
    }

    /// Nil for every header but `X-ClickHouse-Exception-Code`.
    static func code(inHeader line: UnsafeRawBufferPointer) -> Int64? {
        let name = "x-clickhouse-exception-code:".utf8
        guard line.count > name.count, zip(line, name).allSatisfy({ $0 | 0x20 == $1 | 0x20 }) else { return nil }
        return number(line.dropFirst(name.count).filter { $0 > 0x20 })
    }

    private static func number(_ digits: some Collection<UInt8>) -> Int64? {
        Int64(String(decoding: digits, as: UTF8.self))
    }
}

private func percentEncoded(_ text: String) -> String {
    let digits = Array("0123456789ABCDEF".unicodeScalars)
    var encoded = ""
    for byte in text.utf8 {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"):
            encoded.unicodeScalars.append(Unicode.Scalar(byte))
        default:
            encoded += "%"
            encoded.unicodeScalars.append(digits[Int(byte >> 4)])
            encoded.unicodeScalars.append(digits[Int(byte & 15)])
        }
    }
    return encoded
}

private func link(_ context: UnsafeMutableRawPointer?) -> ClickHouseLink? {
    context.map { Unmanaged<ClickHouseLink>.fromOpaque($0).takeUnretainedValue() }
}

private let receiveBody: ccurl_data_callback = { bytes, size, count, context in
    let length = size &* count
    return link(context)?.received(UnsafeRawBufferPointer(start: bytes, count: bytes == nil ? 0 : length)) == true
        ? length : 0
}

private let receiveHeader: ccurl_data_callback = { bytes, size, count, context in
    let length = size &* count
    link(context)?.receivedHeader(UnsafeRawBufferPointer(start: bytes, count: bytes == nil ? 0 : length))
    return length
}

private let watchSocket: ccurl_watch_callback = { _, socket, events, context, _ in
    link(context)?.watch(socket, events)
    return 0
}
