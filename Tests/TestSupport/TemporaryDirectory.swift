import Foundation
import Glibc

/// A directory of its own under /tmp, removed with everything in it when the value goes or the process exits. Its path is short
/// enough for a Unix socket in it (107 bytes).
public final class TemporaryDirectory: Sendable {
    public let path: String

    /// - Parameter owner: the user who may write in it; ignored unless the process runs as root.
    public init(owner: String? = nil) throws {
        var template = Array("/tmp/reactions-XXXXXX".utf8CString)
        guard let made = template.withUnsafeMutableBufferPointer({ $0.baseAddress.flatMap { mkdtemp($0) } }) else {
            throw TestSupportError("cannot create a temporary directory: \(String(cString: strerror(errno)))")
        }
        path = String(cString: made)
        if let owner, getuid() == 0 {
            let user = try SystemUser(owner)
            chown(path, user.uid, user.gid)
        }
        ExitHooks.shared.add(directory: path)
    }

    public func file(_ name: String) -> String { path + "/" + name }

    /// Writes a file and returns its path.
    @discardableResult
    public func write(_ name: String, _ content: String) throws -> String {
        try content.write(toFile: file(name), atomically: false, encoding: .utf8)
        return file(name)
    }

    deinit {
        try? FileManager.default.removeItem(atPath: path)
        ExitHooks.shared.remove(directory: path)
    }
}

/// What went wrong outside the code under test.
public struct TestSupportError: Error, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}

struct SystemUser {
    let uid: uid_t
    let gid: gid_t

    init(_ name: String) throws {
        guard let entry = getpwnam(name) else { throw TestSupportError("there is no user \(name)") }
        uid = entry.pointee.pw_uid
        gid = entry.pointee.pw_gid
    }
}

/// The root of the source tree.
public let packageRoot = URL(filePath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().path
