/// What `reactiond archive` and `reactiond restore` show while they work.
actor ArchiveScreen {
    private let entityType: String
    private var lines = ProgressLines()
    private var meter = ProgressMeter()
    private var next: Duration = .zero
    private var stage = ""
    private var rows: Int64 = 0
    private var total: Int64 = 0

    init(entityType: String) {
        self.entityType = entityType
    }

    /// - Parameter total: rows that there are to be done, about.
    func begin(_ stage: String, total: Int64) {
        self.stage = stage
        self.total = total
        lines = ProgressLines()
        meter = ProgressMeter()
        (next, rows) = (.zero, 0)
    }

    func add(rows: Int64) {
        show(rows: self.rows + rows, of: total)
    }

    func show(rows: Int64, of total: Int64) {
        (self.rows, self.total) = (rows, total)
        guard lines.elapsed >= next else { return }
        next = lines.elapsed + lines.pause
        draw(isLast: false)
    }

    /// The stage is over, and what was done is all.
    func end() {
        total = rows
        draw(isLast: true)
    }

    private func draw(isLast: Bool) {
        var parts = meter.parts(done: rows, of: total, rows: rows, now: lines.elapsed)
        if !isLast, let left = meter.timeLeft { parts.append("\(left) left") }
        lines.print(["\(entityType)  \(stage)  " + parts.joined(separator: "  ")], isLast: isLast)
    }
}
