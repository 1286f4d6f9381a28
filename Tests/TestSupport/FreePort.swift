import Glibc
import Synchronization

/// A TCP port of the loopback interface that nothing listens on. Nobody who asks here is given it as long as this process lives, and as
/// it is below the ports from which connections go out, a server that is stopped finds it free when it starts again.
public enum FreePort {
    /// Below Linux's default `ip_local_port_range`.
    private static let candidates: Range<UInt16> = 10_000..<32_768
    private static let taken = Mutex<Set<UInt16>>([])

    public static func next() throws -> UInt16 {
        for _ in 0..<1_000 {
            let port = UInt16.random(in: candidates)
            if taken.withLock({ $0.insert(port).inserted }), reserve(port), nobodyListens(on: port) { return port }
        }
        throw TestSupportError("there is no free TCP port")
    }

    /// By the name of a socket that is closed when this process ends.
    private static func reserve(_ port: UInt16) -> Bool {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        // The zero in front makes it a name of the kernel's and none of the file system's.
        let name = "\0pg_reactions test port \(port)".utf8
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: name) }
        let size = MemoryLayout<sa_family_t>.size + name.count
        let isReserved = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, socklen_t(size)) == 0 }
        }
        if !isReserved { close(descriptor) }
        return isReserved
    }

    private static func nobodyListens(on port: UInt16) -> Bool {
        let descriptor = Socket.open()
        defer { close(descriptor) }
        return Socket.withLoopback(port, { bind(descriptor, $0, $1) }) == 0
    }
}
