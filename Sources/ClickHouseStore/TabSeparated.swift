/// Answers in ClickHouse's TabSeparated format: names and numbers, which hold nothing that is escaped.
public enum TabSeparated {
    public static func rows(_ answer: [UInt8]) -> [[String]] {
        answer.split(separator: UInt8(ascii: "\n")).map { line in
            line.split(separator: UInt8(ascii: "\t"), omittingEmptySubsequences: false).map {
                String(decoding: $0, as: UTF8.self)
            }
        }
    }
}
