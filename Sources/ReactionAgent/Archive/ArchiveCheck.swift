internal import PostgresSource

/// Tells what an archive's files hold, and what a table holds, each by its own means.
struct ArchiveCheck: Sendable {
    /// A file as somebody says that it is.
    struct Claim: Sendable {
        var name: String
        var rows: Int64
        var sha256: String
    }

    let directory: ArchiveDirectory
    let header: String
    let screen: ArchiveScreen

    /// The manifest of the archive that a type was archived with: the phase log knows its checksum.
    static func manifest(
        of type: ArchivedType, _ entityType: String, in directory: ArchiveDirectory
    ) throws -> Manifest {
        let bytes = try directory.read(Manifest.fileName)
        let manifest = try Manifest.decode(bytes)
        guard let last = try type.lastArchive.map({ try JSON(parsing: $0) }), let sha256 = last["manifest_sha256"]?.text
        else { throw ArchiveProblem("the phase log does not say how entity type \(entityType) was archived") }
        guard try SHA256.hex(of: bytes) == sha256 else {
            throw ArchiveProblem(
                last["archive"]?.text == manifest.archive
                    ? "\(directory.path): \(Manifest.fileName) has been changed since entity type \(entityType) was archived"
                    : "the archive in \(directory.path) is not the one that entity type \(entityType) was archived with: "
                        + "that was written to \(last["directory"]?.text ?? "nowhere")")
        }
        return manifest
    }

    /// What each file holds. A file that is not what is claimed is a problem.
    func files(_ claims: [Claim]) async throws -> [RowChecksum] {
        let reader = ArchiveReader(directory: directory, header: header)
        var found: [RowChecksum] = []
        for claim in claims {
            guard try await reader.sha256(claim.name) == claim.sha256 else {
                throw ArchiveProblem(
                    "\(directory.path): file \(claim.name) is not what was written: its SHA-256 differs")
            }
            try await reader.open(claim.name)
            var checksum = RowChecksum()
            while let piece = try await reader.next() {
                checksum = checksum + piece.kept
                await screen.add(rows: piece.kept.rows)
                try Task.checkCancellation()
            }
            guard checksum.rows == claim.rows else {
                throw ArchiveProblem(
                    "\(directory.path): file \(claim.name) has \(checksum.rows) rows instead of \(claim.rows)")
            }
            found.append(checksum)
        }
        return found
    }

    func table(_ snapshot: TableSnapshot) async throws -> RowChecksum {
        var total = RowChecksum()
        var slice: Int64 = 0
        while let part = try await snapshot.checksum(ofSlice: slice) {
            guard let checksum = RowChecksum(rows: part.rows, text: part.sum) else {
                throw ArchiveProblem("PostgreSQL's checksum is no number")
            }
            total = total + checksum
            slice += 1
            await screen.add(rows: part.rows)
            try Task.checkCancellation()
        }
        return total
    }
}
