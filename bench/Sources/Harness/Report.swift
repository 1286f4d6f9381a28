import Glibc

/// Tables as they are measured, and the figures at the end.
struct Report {
    private var figures: [(name: String, value: Double)] = []

    func title(_ text: String) { note("\n## \(text)\n") }

    /// Seen at once, also in a file.
    func note(_ text: String) {
        print(text)
        fflush(nil)
    }

    /// A table in Markdown.
    func table(_ columns: [String], _ rows: [[String]]) {
        let widths = columns.indices.map { column in
            ([columns] + rows).map { $0[column].count }.max() ?? 0
        }
        func line(_ cells: [String]) -> String {
            "| "
                + zip(cells, widths).map { $0 + String(repeating: " ", count: $1 - $0.count) }.joined(separator: " | ")
                + " |"
        }
        note(line(columns))
        note("|" + widths.map { String(repeating: "-", count: $0 + 2) }.joined(separator: "|") + "|")
        for row in rows { note(line(row)) }
        note("")
    }

    /// Median and p99 of each contender, in microseconds.
    func table(_ contenders: [Contender], _ samples: [String: Samples]) {
        table(
            ["contender", "median µs", "p99 µs", "what it is"],
            contenders.map { contender in
                let samples = samples[contender.name] ?? Samples()
                return [contender.name, number(samples.median, 1), number(samples.p99, 1), contender.what]
            })
    }

    /// Kept for the end.
    mutating func figure(_ name: String, _ value: Double) throws {
        guard value.isFinite else { throw BenchmarkError("figure \(name) was not measured") }
        figures.append((name, value))
    }

    func end() {
        print("")
        for figure in figures { print("figure \(figure.name) \(number(figure.value, 3))") }
    }
}

func number(_ value: Double, _ digits: Int) -> String {
    guard value.isFinite else { return "-" }
    let scale = pow(10, Double(digits))
    let scaled = (value * scale).rounded()
    let whole = Int(scaled.magnitude) / Int(scale)
    let rest = String(Int(scaled.magnitude) % Int(scale))
    let fraction = digits == 0 ? "" : "." + String(repeating: "0", count: digits - rest.count) + rest
    return (scaled < 0 ? "-" : "") + String(whole) + fraction
}
