import ReactionModel

/// Pieces of query text.
enum SQL {
    /// A string literal.
    static func quoted(_ text: String) -> String {
        var literal: [UInt8] = [UInt8(ascii: "'")]
        for byte in text.utf8 {
            if byte == UInt8(ascii: "'") || byte == UInt8(ascii: "\\") { literal.append(UInt8(ascii: "\\")) }
            literal.append(byte)
        }
        literal.append(UInt8(ascii: "'"))
        return String(decoding: literal, as: UTF8.self)
    }

    /// A quoted identifier.
    static func identifier(_ name: String) -> String {
        var quoted: [UInt8] = [UInt8(ascii: "`")]
        for byte in name.utf8 {
            if byte == UInt8(ascii: "`") || byte == UInt8(ascii: "\\") { quoted.append(UInt8(ascii: "\\")) }
            quoted.append(byte)
        }
        quoted.append(UInt8(ascii: "`"))
        return String(decoding: quoted, as: UTF8.self)
    }

    /// String literals with commas between.
    static func list(_ texts: [String]) -> String {
        texts.map(quoted).joined(separator: ", ")
    }

    /// The number that belongs to a column's value, of pairs at least one of which is the column's; with one pair that one's, whatever the
    /// column.
    ///
    /// Arrays as texts: 18.16 takes seconds to analyse one of a thousand numbers, and finds no type for numbers of both signs.
    static func value(of column: String, in pairs: [(key: Int64, value: Int64)]) -> String {
        if pairs.count == 1, let only = pairs.first { return "toInt64(\(only.value))" }
        func array(_ numbers: [Int64]) -> String {
            "CAST('[\(numbers.map(String.init).joined(separator: ","))]' AS Array(Int64))"
        }
        return "transform(\(column), \(array(pairs.map(\.key))), \(array(pairs.map(\.value))), toInt64(0))"
    }

    /// The bit of a row's kind; 0 for a kind that is none of `kinds`.
    ///
    /// `toString`, since 18.16's transform takes no LowCardinality.
    static func flag(of kinds: [Kind]) -> String {
        guard !kinds.isEmpty else { return "toInt32(0)" }
        let flags = kinds.map { String($0.flag) }.joined(separator: ", ")
        return "toInt32(transform(toString(metricType), [\(list(kinds.map(\.metricType)))], [\(flags)], 0))"
    }
}
