internal import Foundation

/// What `manifest.json` says of an archive. It is written last: without it there is no archive.
struct Manifest: Codable, Equatable, Sendable {
    struct File: Codable, Equatable, Sendable {
        var name: String
        var rows: Int64
        /// Of the compressed file.
        var bytes: Int64
        var sha256: String
        /// Sum over its rows; see `RowChecksum`. Decimal text, since it may have more than 64 bits.
        var checksum: String
    }

    static let fileName = "manifest.json"
    static let currentFormat = 1

    var formatVersion: Int
    var productVersion: String
    /// Names this archive in the phase log, and marks a table that is being restored from it.
    var archive: String
    /// Of the one snapshot that all rows are from.
    var snapshotTime: String
    /// Row of `reactions.entity_type` and its kinds.
    var entityType: JSON
    /// What `reactions._table_description` says.
    var table: JSON
    /// Of the files, in their order. Generated columns are not among them.
    var columns: [String]
    var rows: Int64
    var checksum: String
    var files: [File]

    var total: RowChecksum {
        get throws(ArchiveProblem) {
            guard let total = RowChecksum(rows: rows, text: checksum) else {
                throw ArchiveProblem("\(Self.fileName) has a checksum that is no number")
            }
            return total
        }
    }

    /// The first line of each file.
    var header: String { Self.header(columns) }

    static func header(_ columns: [String]) -> String {
        columns.map { "\"\($0.replacing("\"", with: "\"\""))\"" }.joined(separator: ",")
    }

    var claims: [ArchiveCheck.Claim] { files.map { .init(name: $0.name, rows: $0.rows, sha256: $0.sha256) } }

    var stopVersion: Int64? { entityType["stop_version"]?.integer }
    var entityTypeName: String { entityType["entity_type"]?.text ?? "" }
    var schemaName: String { table["schema"]?.text ?? "" }
    var tableName: String { table["name"]?.text ?? "" }

    func encoded() throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return try Array(encoder.encode(self)) + [UInt8(ascii: "\n")]
    }

    static func decode(_ bytes: [UInt8]) throws(ArchiveProblem) -> Manifest {
        struct Format: Decodable { var formatVersion: Int }
        let manifest: Manifest
        do {
            let format = try JSONDecoder().decode(Format.self, from: Data(bytes)).formatVersion
            guard format <= currentFormat else {
                throw ArchiveProblem(
                    "\(fileName) has format \(format), and this agent knows up to \(currentFormat): use a newer reactiond"
                )
            }
            manifest = try JSONDecoder().decode(Manifest.self, from: Data(bytes))
        } catch let problem as ArchiveProblem {
            throw problem
        } catch {
            throw ArchiveProblem("\(fileName) cannot be read: \(error)")
        }
        // A file name leads nowhere else.
        guard manifest.files.allSatisfy({ ArchiveDirectory.isRowsFile($0.name) }) else {
            throw ArchiveProblem("\(fileName) names a file that is not of an archive")
        }
        var sum = RowChecksum()
        for file in manifest.files {
            guard let part = RowChecksum(rows: file.rows, text: file.checksum) else {
                throw ArchiveProblem("\(fileName) has a checksum that is no number")
            }
            sum = sum + part
        }
        guard sum == (try manifest.total) else {
            throw ArchiveProblem("\(fileName) has been changed: its files do not add up to its total")
        }
        return manifest
    }
}
