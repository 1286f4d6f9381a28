internal import Glibc
internal import Logging
internal import PostgresSource

/// Forgets a user and waits until nothing is left of them, telling what is waited for.
public struct ForgetCommand: Sendable {
    static let interval: Duration = .milliseconds(500)

    private let settings: Settings
    private let user: Int64

    public init(settings: Settings, user: Int64) {
        self.settings = settings
        self.user = user
    }

    /// What is interrupted from here on the agent goes on with.
    public func run() async throws {
        let erasures = Erasures(settings: settings.postgres)
        try IncompatibleExtension.check(try await erasures.extensionVersion())
        try await erasures.forget(user)
        var shown = ""
        while true {
            let reports = try await erasures.reports(of: user)
            let line = Self.progress(reports.first, isMirrored: try await erasures.isMirrored())
            if line != shown { print(line) }
            shown = line
            fflush(nil)
            guard reports.contains(where: { $0.state != "erased" }) else {
                for report in reports { print(Self.summary(report)) }
                return
            }
            try await Task.sleep(for: Self.interval)
        }
    }

    static func progress(_ report: ErasureReport?, isMirrored: Bool) -> String {
        guard let report, report.state != "erased" else { return "erased" }
        guard isMirrored else { return "\(report.state); nobody mirrors: start reactiond run" }
        return switch report.waitsFor {
        case "mirror", nil: "un-reacted; waiting for the mirror"
        case "backfill": "removed; waiting for a backfill to be sealed"
        case "outbox": "removed; waiting until the outbox is emptied, which takes mirror.batch_retention"
        default: "removed; waiting for ClickHouse to delete the rows"
        }
    }

    static func summary(_ report: ErasureReport) -> String {
        let table = report.tableRows.map { "\($0) rows of the table, " } ?? ""
        return
            "\(report.entityType): \(table)\(report.clickHouseRows ?? 0) rows in ClickHouse, \(report.userMaps ?? 0) maps in Redis"
    }
}
