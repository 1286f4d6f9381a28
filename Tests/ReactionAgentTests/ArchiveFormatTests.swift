import Foundation
import Testing

@testable import ReactionAgent

@Suite("Format of an archive") struct ArchiveFormatTests {
    /// The lines that come of the bytes, handed over in pieces of a size.
    private func lines(_ text: String, pieces size: Int) throws -> (lines: [String], isWithinLine: Bool) {
        var splitter = LineSplitter()
        var lines: [String] = []
        let bytes = Array(text.utf8)
        for start in stride(from: 0, to: bytes.count, by: size) {
            try Array(bytes[start..<min(start + size, bytes.count)]).withUnsafeBytes { piece in
                try splitter.split(piece) { line in lines.append(String(decoding: line, as: UTF8.self)) }
            }
        }
        return (lines, splitter.isWithinLine)
    }

    @Test("a line feed within quotes belongs to the value, wherever the bytes are cut", arguments: 1...12)
    func split(_ size: Int) throws {
        let expected = ["\"1\",,\"a\nb\"", "\"2\",\"\",\"\"\"\n\"\"\"", "\"3\",\"\r\n\",\",\"", ""]
        let found = try lines(expected.map { $0 + "\n" }.joined(), pieces: size)
        #expect(found.lines == expected)
        #expect(!found.isWithinLine)
        #expect(try lines("\"1\",\"a\n\n", pieces: size).isWithinLine, "the quote is not closed")
        #expect(try lines("\"1\"", pieces: size).isWithinLine, "the line is not ended")
    }

    @Test("a value is found by its position, also behind values with commas and quotes")
    func value() {
        let line = Array("\"a,b\",,\"say \"\"x\"\"\",\"-42\"".utf8)
        let values = (0..<5).map { column in line.withUnsafeBytes { LineSplitter.value(column, of: $0) } }
        #expect(values == ["a,b", "", "say \"x\"", "-42", ""])
    }

    private func checksum(_ lines: [String]) throws -> RowChecksum {
        var checksum = RowChecksum()
        let digest = SHA256()
        for line in lines { try Array(line.utf8).withUnsafeBytes { try checksum.add($0, digest) } }
        return checksum
    }

    @Test("a checksum does not know the order of rows, but each row, how often it is there, and what it says")
    func checksums() throws {
        let rows = (1...100).map { "\"\($0)\",\"Like\"" }
        let whole = try checksum(rows)
        #expect(try checksum(rows.reversed()) == whole)
        #expect(try checksum(Array(rows.dropFirst())) != whole)
        #expect(try checksum(rows + [rows[7]]) != whole)
        #expect(try checksum(rows + [rows[7], rows[7]]) != whole, "twice is not never")
        #expect(try checksum(rows.dropLast() + ["\"100\",\"Like \""]) != whole)
        #expect(try checksum(Array(rows[..<40])) + checksum(Array(rows[40...])) == whole)
        #expect(try whole - checksum([rows[3]]) == checksum(rows.filter { $0 != rows[3] }))
    }

    @Test("the digest is SHA-256, and begins anew after each")
    func digest() throws {
        #expect(
            try SHA256.hex(of: Array("abc".utf8)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        let digest = SHA256()
        for _ in 1...2 {
            Array("abc".utf8).withUnsafeBytes { digest.update($0) }
            #expect(try digest.finish().prefix(4) == [0xba, 0x78, 0x16, 0xbf])
        }
    }

    private func expand(_ bytes: [UInt8], pieces size: Int) throws -> (bytes: [UInt8], isAtEnd: Bool) {
        let gzip = GzipStream(.expand)
        var expanded: [UInt8] = []
        for start in stride(from: 0, to: bytes.count, by: size) {
            try Array(bytes[start..<min(start + size, bytes.count)]).withUnsafeBytes {
                try gzip.process($0) { expanded.append(contentsOf: $0) }
            }
        }
        return (expanded, gzip.isAtEnd)
    }

    @Test("what was compressed piece by piece is expanded piece by piece; a cut, a flipped bit and a tail are seen")
    func gzip() throws {
        // More than the room of one piece, and not all alike.
        let bytes = (0..<900_000).map { UInt8(truncatingIfNeeded: $0 &* $0 >> 7) }
        let gzip = GzipStream(.compress)
        var compressed: [UInt8] = []
        for start in stride(from: 0, to: bytes.count, by: 100_000) {
            try Array(bytes[start..<start + 100_000]).withUnsafeBytes {
                try gzip.process($0) { compressed.append(contentsOf: $0) }
            }
        }
        try [UInt8]().withUnsafeBytes { try gzip.process($0, isLast: true) { compressed.append(contentsOf: $0) } }
        for size in [1_000, 77_777, compressed.count] {
            let found = try expand(compressed, pieces: size)
            #expect(found.isAtEnd && found.bytes == bytes)
        }
        #expect(try !expand(Array(compressed.dropLast(1)), pieces: 5_000).isAtEnd)
        #expect(throws: ArchiveProblem.self) { try expand(compressed + [0], pieces: 5_000) }
        var flipped = compressed
        flipped[compressed.count / 2] ^= 1
        #expect(throws: ArchiveProblem.self) { try expand(flipped, pieces: 5_000) }
    }

    private func manifest() -> Manifest {
        Manifest(
            formatVersion: 1, productVersion: "0.1.0", archive: "a", snapshotTime: "2026-01-01T00:00:00Z",
            entityType: .object(["entity_type": .text("Image"), "stop_version": .integer(1 << 45)]),
            table: .object(["name": .text("r"), "owner": .null, "x": .array([.boolean(true), .number(1.5)])]),
            columns: ["id", "a \"b\""], rows: 3, checksum: "36893488147419103232",
            files: [
                .init(name: "rows-000001.csv.gz", rows: 2, bytes: 1, sha256: "", checksum: "-2"),
                .init(name: "rows-000002.csv.gz", rows: 1, bytes: 1, sha256: "", checksum: "36893488147419103234"),
            ])
    }

    @Test("a manifest is read as it was written; one that does not add up, is newer, or leads elsewhere is refused")
    func manifests() throws {
        let written = manifest()
        #expect(try Manifest.decode(written.encoded()) == written)
        #expect(written.header == "\"id\",\"a \"\"b\"\"\"")
        #expect(written.stopVersion == 1 << 45)
        var changed = written
        changed.files[0].rows = 1
        #expect(throws: ArchiveProblem.self) { try Manifest.decode(changed.encoded()) }
        changed = written
        changed.formatVersion = 2
        let newer = #expect(throws: ArchiveProblem.self) { try Manifest.decode(changed.encoded()) }
        #expect(newer?.description.contains("use a newer reactiond") == true)
        changed = written
        changed.files[0].name = "../rows-000001.csv.gz"
        #expect(throws: ArchiveProblem.self) { try Manifest.decode(changed.encoded()) }
        #expect(throws: ArchiveProblem.self) { try Manifest.decode(Array("{}".utf8)) }
    }

    @Test("names of files sort in their order, and no other name is one of theirs")
    func names() {
        #expect(ArchiveDirectory.rowsFile(1) == "rows-000001.csv.gz")
        #expect(ArchiveDirectory.rowsFile(1_234_567) == "rows-1234567.csv.gz")
        for name in ["rows-1.csv.gz", "rows-00000a.csv.gz", "rows-000001.csv", "a/rows-000001.csv.gz", "rows-.csv.gz"] {
            #expect(!ArchiveDirectory.isRowsFile(name), "\(name)")
        }
    }
}
