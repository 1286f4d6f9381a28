import Glibc
import Synchronization

/// A TCP port of the loopback interface that nothing listened on a moment ago, never handed out twice in one process.
public enum FreePort {
    private static let taken = Mutex<Set<UInt16>>([])

    public static func next() throws -> UInt16 {
        for _ in 0..<100 {
            let port = try ask()
            if taken.withLock({ $0.insert(port).inserted }) { return port }
        }
        throw TestSupportError("there is no free TCP port")
    }

    private static func ask() throws -> UInt16 {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(INADDR_LOOPBACK).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let status = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(descriptor, address, size) == 0 ? getsockname(descriptor, address, &size) : -1
            }
        }
        guard status == 0 else { throw TestSupportError("cannot bind a port: \(String(cString: strerror(errno)))") }
        return UInt16(bigEndian: address.sin_port)
    }
}
