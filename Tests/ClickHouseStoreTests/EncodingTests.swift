import ClickHouseStore
import ReactionModel
import Testing

@Suite struct EncodingTests {
    private static let columns = MirrorTable.allCases.flatMap { table in
        table.columns.map { [table.rawValue, $0, $0 == "createdAt" ? "DateTime('UTC')" : "Int64"] }
    }

    private func encoder(time: String = "DateTime('UTC')") throws -> ChunkEncoder {
        let columns = Self.columns.map { $0[1] == "createdAt" ? [$0[0], $0[1], time] : $0 }
        let key = try KeyTemplate("r:<user>", required: "<user>")
        let type = EntityType(
            typeID: 1, name: "Image", mode: .multi, phase: .native,
            kinds: [Kind(name: "Like", flag: 1), Kind(name: "Heart", flag: 2)], userMapKey: key, entityKey: key,
            shardCount: 1, epoch: 0)
        return ChunkEncoder(catalog: [1: type], layout: try MirrorLayout(columns: columns))
    }

    private func event(_ version: Int64, user: Int64 = 2, set: Int32 = 0, clear: Int32 = 0, at time: Int64 = 0) -> Event
    {
        Event(
            version: Version(rawValue: version), typeID: 1, userID: user, entityID: 3, setMask: set, clearMask: clear,
            createdAt: time, writtenAt: 0)
    }

    private func littleEndian(_ number: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: number.littleEndian) { Array($0) }
    }

    @Test func aRowIsTheColumnsInTheirOrder() throws {
        let chunk = try encoder().encode(
            [event(5, set: 2, at: 1_999_999)], batch: BatchNumber(rawValue: 9), part: 4)
        let image = [5] + Array("Image".utf8)
        let heart = [13] + Array("ReactionHeart".utf8)
        let ids = littleEndian(Int64(3)) + littleEndian(Int64(2))
        let name = littleEndian(Int64(5)) + littleEndian(Int64(9)) + littleEndian(Int32(4))
        let time = littleEndian(UInt32(1))
        #expect(chunk[.entityMetricEvents].bytes == image + ids + heart + [1] + time + name)
        #expect(
            chunk[.reactionsByEntity].bytes
                == image + ids + littleEndian(Int32(2)) + littleEndian(Int32(0)) + time + name)
        #expect(
            chunk[.reactionDeltas].bytes
                == image + littleEndian(Int64(3)) + heart + littleEndian(Int64(1)) + littleEndian(Int64(9))
                + littleEndian(Int32(4)))
    }

    @Test func aTableWithMicrosecondsGetsThem() throws {
        let chunk = try encoder(time: "DateTime64(6, 'UTC')").encode(
            [event(5, set: 1, at: 1_999_999)], batch: BatchNumber(rawValue: 9), part: 4)
        let tail = chunk[.entityMetricEvents].bytes.suffix(28)
        #expect(Array(tail.prefix(8)) == littleEndian(Int64(1_999_999)))
    }

    @Test func talliesCountWhatTheRowsSay() throws {
        let chunk = try encoder().encode(
            [event(5, set: 3), event(6, clear: 1), event(7, user: 8, set: 1), event(8)],
            batch: BatchNumber(rawValue: 1), part: 0)
        #expect(chunk[.reactionsByEntity].tally == Tally(rows: 3, checksum: 5 + 6 + 7))
        #expect(chunk[.entityMetricEvents].tally == Tally(rows: 4, checksum: 5 + 5 + 6 + 7))
        #expect(chunk[.reactionDeltas].tally == Tally(rows: 2, checksum: 2))
    }

    @Test func aCountThatComesBackToWhereItWasHasNoDelta() throws {
        let chunk = try encoder().encode(
            [event(5, set: 1), event(6, clear: 1)], batch: BatchNumber(rawValue: 1), part: 0)
        #expect(chunk[.reactionDeltas].tally == Tally())
        #expect(chunk[.reactionDeltas].bytes.isEmpty)
    }

    @Test func checksumsWrap() throws {
        let chunk = try encoder().encode(
            [event(.max, set: 3), event(.max, user: 8, set: 1)], batch: BatchNumber(rawValue: .max), part: .max)
        #expect(chunk[.entityMetricEvents].tally.checksum == .max - 2)
    }

    @Test func aBitWithoutAKindIsNotDropped() throws {
        #expect(throws: ChunkEncoder.Problem.unknownKind(Version(rawValue: 5))) {
            try encoder().encode([event(5, clear: 4)], batch: BatchNumber(rawValue: 1), part: 0)
        }
    }

    @Test func tablesThatDoNotFitAreNamed() {
        func problem(_ columns: [[String]]) -> String? {
            do {
                _ = try MirrorLayout(columns: columns)
                return nil
            } catch { return error.message }
        }
        #expect(problem(Self.columns) == nil)
        #expect(problem([]) == "table reactionsByEntity does not exist")
        #expect(
            problem(Self.columns.filter { $0[1] != "delta" }) == "table reactionDeltas has no column delta")
        #expect(
            problem(Self.columns.map { $0[1] == "createdAt" ? [$0[0], $0[1], "Date"] : $0 })
                == "column createdAt of table entityMetricEvents has the unexpected type Date")
    }
}
