import Foundation
import Glibc
import Synchronization

/// A TCP port of the loopback interface that nothing listened on a moment ago, never handed out twice in one process.
///
/// None of those that the kernel gives to clients. Such a one is taken by anybody's connection while a server that had it restarts; and a
/// client that connects to it meanwhile can be given the port itself, and be connected with itself.
public enum FreePort {
    private static let taken = Mutex<Set<UInt16>>([])

    private static let candidates: ClosedRange<UInt16> = {
        let range = (try? String(contentsOfFile: "/proc/sys/net/ipv4/ip_local_port_range", encoding: .utf8)) ?? ""
        let first = range.split(whereSeparator: \.isWhitespace).first.flatMap { UInt16($0) } ?? 32_768
        // Below 10,000 are those that servers have by default.
        return first > 12_000 ? 10_000...(first - 1) : 10_000...65_535
    }()

    public static func next() throws -> UInt16 {
        for _ in 0..<1_000 {
            let port = UInt16.random(in: candidates)
            if isFree(port), taken.withLock({ $0.insert(port).inserted }) { return port }
        }
        throw TestSupportError("there is no free TCP port")
    }

    private static func isFree(_ port: UInt16) -> Bool {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        // On every interface: some servers listen on all of them.
        address.sin_addr.s_addr = INADDR_ANY
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
    }
}
