internal import Pipeline

/// What a reconciliation has found, for humans: a line for each class of a type, then the faults.
struct ReconcileTable {
    /// Faults that are shown.
    private static let shown = 20

    let tally: ReconcileTally
    let run: Int64
    let isDry: Bool

    var text: String {
        var lines = table(
            [["type", "class", "found", "repaired"]]
                + tally.counts.sorted {
                    ($0.key.entityType, $0.key.isFault ? 1 : 0, $0.key.name) < (
                        $1.key.entityType, $1.key.isFault ? 1 : 0, $1.key.name
                    )
                }
                .map { key, count in
                    [
                        key.entityType.isEmpty ? "-" : key.entityType, key.name, ProgressMeter.grouped(count.found),
                        key.isFault ? ProgressMeter.grouped(count.repaired) : "",
                    ]
                })
        lines.append(
            "\(ProgressMeter.grouped(tally.verified)) entities compared with ClickHouse, "
                + "\(ProgressMeter.grouped(tally.kept)) popular ones kept, \(ProgressMeter.grouped(tally.found)) faults, "
                + "\(ProgressMeter.grouped(tally.repaired)) repaired" + (isDry ? " (dry run)" : ""))
        for finding in tally.findings.prefix(Self.shown) {
            lines.append("  \(finding.key): \(finding.fault.rawValue): \(finding.detail)" + outcome(of: finding))
        }
        let more = tally.found - Int64(min(tally.findings.count, Self.shown))
        if more > 0 {
            lines.append(
                "  and \(ProgressMeter.grouped(more)) more: "
                    + "SELECT * FROM reactions.reconcile_finding WHERE reconcile_run_id = \(run)")
        }
        if tally.findings.contains(where: { $0.fault == .wrongDeltas }) {
            lines.append(
                "  wrong_deltas: sums in ClickHouse are made to agree by SELECT reactions.restart_backfill(...), for types with a table"
            )
        }
        return lines.joined(separator: "\n")
    }

    private func outcome(of finding: ReconcileTally.Finding) -> String {
        if finding.isRepaired { return finding.fault.repair == .rebuild ? "; will be built anew" : "; dropped" }
        guard isDry else { return "; left" }
        return switch finding.fault.repair {
        case .rebuild: "; would be built anew"
        case .drop: "; would be dropped"
        case .none: "; cannot be repaired here"
        }
    }

    /// Columns of equal width; numbers to the right.
    private func table(_ rows: [[String]]) -> [String] {
        let widths = (0..<4).map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            var cells = zip(row, widths).enumerated().map { column, cell in
                let padding = String(repeating: " ", count: cell.1 - cell.0.count)
                return column < 2 ? cell.0 + padding : padding + cell.0
            }
            while cells.last?.allSatisfy({ $0 == " " }) == true { cells.removeLast() }
            return cells.joined(separator: "  ")
        }
    }
}
