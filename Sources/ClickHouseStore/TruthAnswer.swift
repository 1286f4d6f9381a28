/// A kind of one entity in the answer to a `TruthQuery`, in RowBinary.
public struct TruthRow: Equatable, Sendable {
    public var entityID: Int64
    /// The kind's newest version.
    public var version: Int64
    /// The kind's bit.
    public var flag: Int32
    public var isSet: Bool

    public init(entityID: Int64, version: Int64, flag: Int32, isSet: Bool) {
        self.entityID = entityID
        self.version = version
        self.flag = flag
        self.isSet = isSet
    }

    private static let width = 20

    /// The rows of a whole answer, or nil if it is anything else: it has to consist of rows to its last byte, each of one of `flags`.
    public static func rows(_ answer: [UInt8], flags: Int32) -> [TruthRow]? {
        guard answer.count.isMultiple(of: width) else { return nil }
        var rows: [TruthRow] = []
        rows.reserveCapacity(answer.count / width)
        let isWhole = answer.withUnsafeBytes { bytes in
            for start in stride(from: 0, to: bytes.count, by: width) {
                func number<Number: FixedWidthInteger & BitwiseCopyable>(_ offset: Int, _: Number.Type) -> Number {
                    Number(littleEndian: bytes.loadUnaligned(fromByteOffset: start + offset, as: Number.self))
                }
                let version = number(8, Int64.self)
                let state = number(16, Int32.self)
                let flag = Int32(truncatingIfNeeded: state.magnitude)
                guard version >= 0, flag > 0, flag & (flag - 1) == 0, flag & flags != 0 else { return false }
                rows.append(
                    TruthRow(entityID: number(0, Int64.self), version: version, flag: flag, isSet: state > 0))
            }
            return true
        }
        return isWhole ? rows : nil
    }
}
