internal import Glibc
internal import PostgresSource

/// Writes rows into files of bounded size, one after the other.
actor ArchiveWriter {
    /// A file as it was written; what it holds is told by reading it back.
    struct Written: Sendable {
        var name: String
        var rows: Int64
        var bytes: Int64
        var sha256: String
    }

    private final class OpenFile {
        let name: String
        let descriptor: Int32
        let gzip = GzipStream(.compress)
        let digest = SHA256()
        var rows: Int64 = 0
        var bytes: Int64 = 0

        init(name: String, descriptor: Int32) {
            self.name = name
            self.descriptor = descriptor
        }
    }

    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.archive.writer")
    private let directory: ArchiveDirectory
    private let header: [UInt8]
    private let maxFileRows: Int64
    private var current: OpenFile?
    private var written: [Written] = []

    init(directory: ArchiveDirectory, header: String, maxFileRows: Int64) {
        self.directory = directory
        self.header = Array(header.utf8) + [UInt8(ascii: "\n")]
        self.maxFileRows = maxFileRows
    }

    /// Rows that the current file has room for; a piece has no more than that.
    var room: Int64 { maxFileRows - (current?.rows ?? 0) }

    func append(_ rows: CopiedRows) throws(ArchiveProblem) {
        let file = if let current { current } else { try begin() }
        try add(rows.bytes, to: file)
        file.rows += rows.count
        if file.rows >= maxFileRows { try end() }
    }

    /// Every file is on the disk on return. A table without rows has one file, with the header alone.
    func finish() throws(ArchiveProblem) -> [Written] {
        if written.isEmpty, current == nil { _ = try begin() }
        try end()
        return written
    }

    private func begin() throws(ArchiveProblem) -> OpenFile {
        let name = ArchiveDirectory.rowsFile(written.count + 1)
        let file = OpenFile(name: name, descriptor: try directory.create(name))
        current = file
        try add(header, to: file)
        return file
    }

    private func end() throws(ArchiveProblem) {
        guard let file = current else { return }
        try add([], to: file, isLast: true)
        current = nil
        try directory.finish(file.descriptor, file.name)
        written.append(
            Written(name: file.name, rows: file.rows, bytes: file.bytes, sha256: try file.digest.finishHex()))
    }

    private func add(_ bytes: [UInt8], to file: OpenFile, isLast: Bool = false) throws(ArchiveProblem) {
        do throws(ArchiveProblem) {
            try bytes.span.bytes.withUnsafeBytes { bytes throws(ArchiveProblem) in
                try file.gzip.process(bytes, isLast: isLast) { piece throws(ArchiveProblem) in
                    file.digest.update(piece)
                    file.bytes += Int64(piece.count)
                    try directory.write(piece, to: file.descriptor, file.name)
                }
            }
        } catch {
            close(file.descriptor)
            current = nil
            throw error
        }
    }
}
