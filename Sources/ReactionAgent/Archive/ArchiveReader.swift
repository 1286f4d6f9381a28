internal import Glibc
internal import PostgresSource

/// Reads the files of an archive back: bytes, gzip, lines, rows.
actor ArchiveReader {
    struct Piece: Sendable {
        /// Whole lines, of rows that are not left out.
        var lines: [UInt8] = []
        var kept = RowChecksum()
        var leftOut = RowChecksum()
    }

    /// Users whose rows are left out, and the position of the column that names them.
    struct Filter: Sendable {
        var users: Set<Int64>
        var column: Int
    }

    private final class OpenFile {
        let name: String
        let descriptor: Int32
        let gzip = GzipStream(.expand)
        var splitter = LineSplitter()
        var isBehindHeader = false

        init(name: String, descriptor: Int32) {
            self.name = name
            self.descriptor = descriptor
        }

        deinit { close(descriptor) }
    }

    private final class Room {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 18, alignment: 16)

        deinit { buffer.deallocate() }
    }

    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.archive.reader")
    private let directory: ArchiveDirectory
    private let header: [UInt8]
    private let filter: Filter?
    private let digest = SHA256()
    private let room = Room()
    private var current: OpenFile?

    init(directory: ArchiveDirectory, header: String, filter: Filter? = nil) {
        self.directory = directory
        self.header = Array(header.utf8)
        self.filter = filter
    }

    func sha256(_ name: String) throws(ArchiveProblem) -> String {
        let descriptor = try directory.open(name)
        defer { close(descriptor) }
        while true {
            let count = try directory.read(descriptor, into: room.buffer, name)
            guard count > 0 else { return try digest.finishHex() }
            digest.update(UnsafeRawBufferPointer(rebasing: room.buffer[..<count]))
        }
    }

    func open(_ name: String) throws(ArchiveProblem) {
        current = OpenFile(name: name, descriptor: try directory.open(name))
    }

    /// The next rows of the open file; nil at its end, which must be the end of a line and of the gzip.
    func next() throws(ArchiveProblem) -> Piece? {
        guard let file = current else { return nil }
        do throws(ArchiveProblem) {
            let count = try directory.read(file.descriptor, into: room.buffer, file.name)
            guard count > 0 else {
                current = nil
                guard file.gzip.isAtEnd, !file.splitter.isWithinLine, file.isBehindHeader else {
                    throw ArchiveProblem("it ends too early")
                }
                return nil
            }
            var piece = Piece()
            try file.gzip.process(UnsafeRawBufferPointer(rebasing: room.buffer[..<count])) {
                bytes throws(ArchiveProblem) in
                try file.splitter.split(bytes) { line throws(ArchiveProblem) in try add(line, of: file, to: &piece) }
            }
            return piece
        } catch {
            current = nil
            throw ArchiveProblem("\(directory.path): file \(file.name) is damaged: \(error)")
        }
    }

    private func add(
        _ line: UnsafeRawBufferPointer, of file: OpenFile, to piece: inout Piece
    ) throws(ArchiveProblem) {
        guard file.isBehindHeader else {
            guard line.elementsEqual(header) else { throw ArchiveProblem("it has other columns than the manifest") }
            file.isBehindHeader = true
            return
        }
        if let filter, let user = Int64(LineSplitter.value(filter.column, of: line)), filter.users.contains(user) {
            try piece.leftOut.add(line, digest)
            return
        }
        try piece.kept.add(line, digest)
        piece.lines.append(contentsOf: line)
        piece.lines.append(UInt8(ascii: "\n"))
    }
}
