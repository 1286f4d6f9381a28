import Glibc

/// An address to connect to.
struct ResolvedAddress {
    var storage = sockaddr_storage()
    var length: socklen_t = 0

    var family: Int32 { Int32(storage.ss_family) }

    func withSocketAddress<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        withUnsafePointer(to: storage) { storage in
            storage.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, length) }
        }
    }

    /// The address in digits.
    var numericHost: String {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(NI_MAXHOST)) { text in
            let status = withSocketAddress { address, length in
                getnameinfo(address, length, text.baseAddress, socklen_t(text.count), nil, 0, NI_NUMERICHOST)
            }
            guard status == 0, let start = text.baseAddress else { return "" }
            return String(cString: start)
        }
    }

    /// The address of a socket in the file system; nil if the path is too long.
    static func unixSocket(path: String) -> ResolvedAddress? {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        let fits = withUnsafeMutableBytes(of: &address.sun_path) { buffer in
            guard bytes.count < buffer.count else { return false }
            buffer.copyBytes(from: bytes)
            return true
        }
        guard fits else { return nil }
        var resolved = ResolvedAddress()
        resolved.length = socklen_t(MemoryLayout<sockaddr_un>.size)
        withUnsafeMutableBytes(of: &resolved.storage) { storage in
            withUnsafeBytes(of: &address) { storage.copyMemory(from: $0) }
        }
        return resolved
    }

    /// Resolves a name in this thread; libcurl and others would start one of their own. Blocks as long as the system's resolver
    /// does, so callers keep the answer until it proves wrong.
    static func resolve(host: String, port: UInt16) -> [ResolvedAddress] {
        var hints = addrinfo()
        hints.ai_family = AF_UNSPEC
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(host, String(port), &hints, &list) == 0 else { return [] }
        defer { freeaddrinfo(list) }
        var addresses: [ResolvedAddress] = []
        var entry = list
        while let info = entry?.pointee {
            entry = info.ai_next
            var resolved = ResolvedAddress()
            guard let source = info.ai_addr, Int(info.ai_addrlen) <= MemoryLayout<sockaddr_storage>.size else {
                continue
            }
            resolved.length = info.ai_addrlen
            withUnsafeMutableBytes(of: &resolved.storage) { storage in
                storage.copyMemory(from: UnsafeRawBufferPointer(start: source, count: Int(info.ai_addrlen)))
            }
            addresses.append(resolved)
        }
        return addresses
    }
}
