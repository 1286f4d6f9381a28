import CCurl
import Glibc
import Pipeline

/// One kept-alive HTTP connection over libcurl, for one thread at a time.
///
/// Exactly-once rests on two habits of it. A socket is closed with RST, never with FIN, also when the process dies: the server then
/// drops what it has not read. And libcurl cannot repeat a request on its own: the body comes from a callback that does not rewind.
final class HTTPConnection {
    struct Answer {
        var status = 0
        /// The header X-ClickHouse-Exception-Code.
        var exceptionCode: String?
        var body: [UInt8] = []
    }

    /// ClickHouse closes a connection that was idle for 10 seconds, 3 in Debian's configuration.
    private static let longestIdleSeconds = 2

    private let handle: UnsafeMutableRawPointer
    private var plainHeaders: UnsafeMutablePointer<curl_slist>?
    private var gzipHeaders: UnsafeMutablePointer<curl_slist>?

    init(_ settings: ClickHouseSettings) throws(SinkError) {
        guard let handle = curl_easy_init() else {
            throw SinkError(disposition: .retry, message: "libcurl is out of memory")
        }
        self.handle = handle
        for header in [
            "X-ClickHouse-User: " + settings.user, "X-ClickHouse-Key: " + settings.password, "Expect:", "Content-Type:",
        ] {
            plainHeaders = curl_slist_append(plainHeaders, header)
            gzipHeaders = curl_slist_append(gzipHeaders, header)
        }
        gzipHeaders = curl_slist_append(gzipHeaders, "Content-Encoding: gzip")

        ccurl_setopt_long(handle, CURLOPT_NOSIGNAL, 1)
        ccurl_setopt_string(handle, CURLOPT_NOPROXY, "*")
        ccurl_setopt_string(handle, CURLOPT_PROTOCOLS_STR, "http,https")
        ccurl_setopt_long(handle, CURLOPT_CONNECTTIMEOUT_MS, settings.connectTimeout.milliseconds)
        ccurl_setopt_long(handle, CURLOPT_MAXAGE_CONN, Self.longestIdleSeconds)
        ccurl_setopt_long(handle, CURLOPT_MAXCONNECTS, 1)
        ccurl_setopt_long(handle, CURLOPT_POST, 1)
        ccurl_setopt_socket_callback(handle, CURLOPT_SOCKOPTFUNCTION) { _, socket, _ in
            var reset = linger(l_onoff: 1, l_linger: 0)
            setsockopt(socket, SOL_SOCKET, SO_LINGER, &reset, socklen_t(MemoryLayout<linger>.size))
            return Int32(CURL_SOCKOPT_OK)
        }
        ccurl_setopt_callback(handle, CURLOPT_READFUNCTION) { bytes, size, count, context in
            guard let bytes else { return 0 }
            return Exchange.of(context)?.read(into: .init(start: bytes, count: size * count)) ?? 0
        }
        ccurl_setopt_callback(handle, CURLOPT_HEADERFUNCTION) { bytes, size, count, context in
            guard let bytes else { return 0 }
            return Exchange.of(context)?.receive(header: .init(start: bytes, count: size * count)) ?? 0
        }
        ccurl_setopt_callback(handle, CURLOPT_WRITEFUNCTION) { bytes, size, count, context in
            guard let bytes else { return 0 }
            return Exchange.of(context)?.receive(body: .init(start: bytes, count: size * count)) ?? 0
        }
    }

    deinit {
        curl_easy_cleanup(handle)
        curl_slist_free_all(plainHeaders)
        curl_slist_free_all(gzipHeaders)
    }

    /// - Parameter timeout: for the whole of it.
    func post(_ url: String, body: [UInt8], isGzip: Bool, timeout: Duration) throws(SinkError) -> Answer {
        ccurl_setopt_long(handle, CURLOPT_TIMEOUT_MS, timeout.milliseconds)
        let (result, answer) = body.withUnsafeBytes { bytes in
            let exchange = Exchange(body: bytes)
            return withExtendedLifetime(exchange) {
                let context = Unmanaged.passUnretained(exchange).toOpaque()
                ccurl_setopt_string(handle, CURLOPT_URL, url)
                ccurl_setopt_list(handle, CURLOPT_HTTPHEADER, isGzip ? gzipHeaders : plainHeaders)
                ccurl_setopt_int64(handle, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(bytes.count))
                ccurl_setopt_pointer(handle, CURLOPT_READDATA, context)
                ccurl_setopt_pointer(handle, CURLOPT_HEADERDATA, context)
                ccurl_setopt_pointer(handle, CURLOPT_WRITEDATA, context)
                let result = curl_easy_perform(handle)
                ccurl_getinfo_long(handle, CURLINFO_RESPONSE_CODE, &exchange.answer.status)
                return (result, exchange.answer)
            }
        }
        switch result {
        case CURLE_OK:
            return answer
        case CURLE_URL_MALFORMAT, CURLE_UNSUPPORTED_PROTOCOL, CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_CACERT_BADFILE:
            throw SinkError(disposition: .stop, message: String(cString: curl_easy_strerror(result)))
        default:
            throw SinkError(disposition: .retry, message: String(cString: curl_easy_strerror(result)))
        }
    }
}

/// What libcurl's callbacks work on during a request.
private final class Exchange {
    private static let largestBody = 256 << 20

    private var unsent: UnsafeRawBufferPointer.SubSequence
    var answer = HTTPConnection.Answer()

    init(body: UnsafeRawBufferPointer) { unsent = body[...] }

    /// Safe because: the pointer is made in `post`, which keeps the object and the body until libcurl has returned.
    static func of(_ context: UnsafeMutableRawPointer?) -> Exchange? {
        context.map { Unmanaged<Exchange>.fromOpaque($0).takeUnretainedValue() }
    }

    func read(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        let piece = unsent.prefix(buffer.count)
        buffer.copyBytes(from: piece)
        unsent = unsent.dropFirst(piece.count)
        return piece.count
    }

    func receive(header: UnsafeRawBufferPointer) -> Int {
        let parts = header.split(separator: UInt8(ascii: ":"), maxSplits: 1)
        if parts.count == 2, String(decoding: parts[0], as: UTF8.self).lowercased() == "x-clickhouse-exception-code" {
            answer.exceptionCode = String(String(decoding: parts[1], as: UTF8.self).filter { !$0.isWhitespace })
        }
        return header.count
    }

    /// Any other number than the one received makes libcurl give up.
    func receive(body: UnsafeRawBufferPointer) -> Int {
        guard answer.body.count + body.count <= Self.largestBody else { return 0 }
        answer.body.append(contentsOf: body)
        return body.count
    }
}

extension Duration {
    fileprivate var milliseconds: Int {
        Int(components.seconds) * 1_000 + Int(components.attoseconds / 1_000_000_000_000_000)
    }
}
