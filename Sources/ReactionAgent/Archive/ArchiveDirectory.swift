internal import Glibc

/// The directory of an archive: `rows-000001.csv.gz` and so on, and `manifest.json`, which is written last.
///
/// A file gets its name when it is whole and on the disk; until then it ends in `.partial`. Nobody but the owner may read it.
struct ArchiveDirectory: Sendable {
    enum State: Equatable, Sendable {
        case empty
        /// Files of an archive without its manifest: it was interrupted.
        case unfinished
        case finished
    }

    private static let partial = ".partial"

    let path: String

    static func rowsFile(_ number: Int) -> String {
        let digits = String(number)
        return "rows-" + String(repeating: "0", count: max(6 - digits.count, 0)) + digits + ".csv.gz"
    }

    static func isRowsFile(_ name: String) -> Bool {
        guard name.hasPrefix("rows-"), name.hasSuffix(".csv.gz") else { return false }
        let number = name.dropFirst(5).dropLast(7)
        return number.count >= 6 && number.allSatisfy { $0.isASCII && $0.isNumber }
    }

    /// As it is kept where another process reads it.
    var absolutePath: String {
        guard let resolved = realpath(path, nil) else { return path }
        defer { free(resolved) }
        return String(cString: resolved)
    }

    func file(_ name: String) -> String { path + "/" + name }

    /// Makes the directory if it is not there, and looks what is in it. What is not an archive's is left alone, and refused.
    func prepare() throws(ArchiveProblem) -> State {
        if mkdir(path, 0o700) != 0, errno != EEXIST { throw problem("cannot be made") }
        let names = try names()
        if names.contains(Manifest.fileName) { return .finished }
        if let foreign = names.first(where: { !isOwn($0) }) {
            throw ArchiveProblem("directory \(path) has a file \(foreign) that is not of an archive: name an empty one")
        }
        return names.isEmpty ? .empty : .unfinished
    }

    /// Removes what an interrupted archive has left. A finished one is not touched.
    func removeUnfinished() throws(ArchiveProblem) {
        let names = try names()
        guard !names.contains(Manifest.fileName) else { return }
        for name in names where isOwn(name) {
            guard unlink(file(name)) == 0 else { throw problem("\(name) cannot be removed") }
        }
    }

    /// Opens a file that is to get the name when it is whole.
    func create(_ name: String) throws(ArchiveProblem) -> Int32 {
        let descriptor = Glibc.open(file(name) + Self.partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw problem("\(name) cannot be written") }
        return descriptor
    }

    func write(_ bytes: UnsafeRawBufferPointer, to descriptor: Int32, _ name: String) throws(ArchiveProblem) {
        var written = 0
        while written < bytes.count {
            let count = Glibc.write(descriptor, bytes.baseAddress?.advanced(by: written), bytes.count - written)
            if count < 0 {
                if errno == EINTR { continue }
                throw problem("\(name) cannot be written")
            }
            written += count
        }
    }

    /// Closes a file that is whole, and gives it its name; both are on the disk on return.
    func finish(_ descriptor: Int32, _ name: String) throws(ArchiveProblem) {
        guard fsync(descriptor) == 0 else {
            let found = problem("\(name) cannot be brought to the disk")
            close(descriptor)
            throw found
        }
        // What is read back comes from the disk then, not from memory.
        posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
        guard close(descriptor) == 0, rename(file(name) + Self.partial, file(name)) == 0 else {
            throw problem("\(name) cannot be written")
        }
        try sync(path)
    }

    func write(_ bytes: [UInt8], to descriptor: Int32, _ name: String) throws(ArchiveProblem) {
        try bytes.span.bytes.withUnsafeBytes { bytes throws(ArchiveProblem) in try write(bytes, to: descriptor, name) }
    }

    func write(_ bytes: [UInt8], as name: String) throws(ArchiveProblem) {
        let descriptor = try create(name)
        do {
            try write(bytes, to: descriptor, name)
        } catch {
            discard(descriptor, name)
            throw error
        }
        try finish(descriptor, name)
        // The directory's own name, if it is new.
        try sync(path + "/..")
    }

    /// Gives up a file that has not got its name.
    func discard(_ descriptor: Int32, _ name: String) {
        close(descriptor)
        unlink(file(name) + Self.partial)
    }

    func open(_ name: String) throws(ArchiveProblem) -> Int32 {
        let descriptor = Glibc.open(file(name), O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw errno == ENOENT
                ? ArchiveProblem("\(path): file \(name) is missing") : problem("\(name) cannot be read")
        }
        return descriptor
    }

    /// The next bytes of a file, at most as many as there is room for; 0 at its end.
    func read(
        _ descriptor: Int32, into buffer: UnsafeMutableRawBufferPointer, _ name: String
    ) throws(ArchiveProblem) -> Int {
        while true {
            let count = Glibc.read(descriptor, buffer.baseAddress, buffer.count)
            if count >= 0 { return count }
            guard errno == EINTR else { throw problem("\(name) cannot be read") }
        }
    }

    func read(_ name: String) throws(ArchiveProblem) -> [UInt8] {
        let descriptor = try open(name)
        defer { close(descriptor) }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 16, alignment: 16)
        defer { buffer.deallocate() }
        var bytes: [UInt8] = []
        while true {
            let count = try read(descriptor, into: buffer, name)
            guard count > 0 else { return bytes }
            bytes.append(contentsOf: buffer[..<count])
        }
    }

    private func isOwn(_ name: String) -> Bool {
        let whole = name.hasSuffix(Self.partial) ? String(name.dropLast(Self.partial.count)) : name
        return Self.isRowsFile(whole) || whole == Manifest.fileName && whole != name
    }

    private func names() throws(ArchiveProblem) -> [String] {
        guard let directory = opendir(path) else { throw problem("cannot be read") }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    private func sync(_ directory: String) throws(ArchiveProblem) {
        let descriptor = Glibc.open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw problem("cannot be read") }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw problem("cannot be brought to the disk") }
    }

    private func problem(_ what: String) -> ArchiveProblem {
        let reason = errno
        switch reason {
        case ENOSPC, EDQUOT: return ArchiveProblem("\(path): \(what): the disk is full")
        case EFBIG: return ArchiveProblem("\(path): \(what): it is larger than files may be (ulimit -f)")
        default: return ArchiveProblem("\(path): \(what): \(String(cString: strerror(reason)))")
        }
    }
}
