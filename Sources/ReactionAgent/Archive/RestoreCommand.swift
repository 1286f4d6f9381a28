internal import Glibc
internal import PostgresSource

/// Brings the table of an archived type back, as it was when its writes were stopped, and takes the type to phase stop_writes.
///
/// What has happened since is brought in by `reactions.rollback`, as in that phase it always is. A restore that is interrupted leaves a
/// table that the next one drops; nothing uses it before the last transaction.
public struct RestoreCommand: Sendable {
    private let settings: Settings
    private let entityType: String
    private let directory: ArchiveDirectory
    private let tableName: String?
    private let rollsBack: Bool
    private let screen: ArchiveScreen
    private let notice: @Sendable (String) -> Void

    /// - Parameters:
    ///   - tableName: nil for the archived one.
    ///   - rollsBack: has the agent write into the table what has happened since.
    ///   - notice: told what PostgreSQL says meanwhile, and what is waited for.
    public init(
        settings: Settings, entityType: String, directory: String, tableName: String?, rollsBack: Bool,
        notice: @escaping @Sendable (String) -> Void
    ) {
        self.settings = settings
        self.entityType = entityType
        self.directory = ArchiveDirectory(path: directory)
        self.tableName = tableName
        self.rollsBack = rollsBack
        self.notice = notice
        screen = ArchiveScreen(entityType: entityType)
    }

    public func run() async throws {
        let (session, type) = try await ArchiveSession.begin(settings, entityType)
        guard type.phase == "archived" else {
            throw ArchiveProblem("entity type \(entityType) is in phase \(type.phase): it has nothing to be restored")
        }
        let manifest = try ArchiveCheck.manifest(of: type, entityType, in: directory)
        let restore = RestoreSession(settings: settings.postgres.patient)
        try await restore.open()
        if let table = type.table {
            let name = tableName ?? manifest.tableName
            try await whenThereIsAGap { () async throws(PostgresError) in
                try await restore.attach(entityType, kept: table, name: name)
            }
            try await flip(restore, try report(manifest, leftOut: 0))
            print("\(entityType)  restored: table \(table) was still there, and is \(name) again")
        } else {
            try await load(manifest, session, restore)
        }
        guard rollsBack else {
            return print("CALL reactions.rollback('\(entityType)') writes into it what has happened since")
        }
        print("\(entityType)  writing what has happened since")
        fflush(nil)
        try await PhaseCommand(settings: settings, name: "restore", notice: notice).rollBack(entityType)
        print("\(entityType)  rolled back: the table is the truth again")
    }

    private func load(_ manifest: Manifest, _ session: ArchiveSession, _ restore: RestoreSession) async throws {
        let check = ArchiveCheck(directory: directory, header: manifest.header, screen: screen)
        await screen.begin("checking the files", total: manifest.rows)
        let sums = try await check.files(manifest.claims)
        guard sums.reduce(RowChecksum(), +) == (try manifest.total) else {
            throw ArchiveProblem("\(Manifest.fileName) has another checksum than its files")
        }
        await screen.end()

        let description = try manifest.table.encoded
        let table = try await restore.makeTable(
            description, archive: manifest.archive, name: tableName ?? manifest.tableName)
        let forgotten = try await session.forgottenUsers(entityType)
        let (loaded, leftOut) = try await load(manifest, into: table, restore, forgotten)
        try await compare(table, with: loaded, check)
        let removed = try await complete(description, table, restore)
        let lacking = try await whenThereIsAGap { () async throws(PostgresError) in
            try await restore.attach(entityType, description, table)
        }
        try await flip(restore, try report(manifest, leftOut: leftOut.rows + removed))
        for line in lacking { print("note: \(line)") }
        print("\(entityType)  restored: \(loaded.rows - removed) rows in table \(table)")
        if leftOut.rows > 0 { print("\(leftOut.rows) rows of forgotten users are left out") }
    }

    private func load(
        _ manifest: Manifest, into table: String, _ restore: RestoreSession, _ forgotten: Set<Int64>
    ) async throws -> (loaded: RowChecksum, leftOut: RowChecksum) {
        guard let column = manifest.entityType["user_column"]?.text.flatMap({ manifest.columns.firstIndex(of: $0) })
        else { throw ArchiveProblem("\(Manifest.fileName) does not say which column names the user") }
        let reader = ArchiveReader(
            directory: directory, header: manifest.header, filter: .init(users: forgotten, column: column))
        var loaded = RowChecksum()
        var leftOut = RowChecksum()
        await screen.begin("loading", total: manifest.rows)
        for file in manifest.files {
            try await reader.open(file.name)
            try await restore.beginLoad(table)
            while let piece = try await reader.next() {
                if !piece.lines.isEmpty { try await restore.load(piece.lines) }
                loaded = loaded + piece.kept
                leftOut = leftOut + piece.leftOut
                await screen.add(rows: piece.kept.rows + piece.leftOut.rows)
                try Task.checkCancellation()
            }
            try await restore.endLoad()
        }
        await screen.end()
        guard loaded + leftOut == (try manifest.total) else {
            throw ArchiveProblem("\(directory.path): the files have changed while they were loaded")
        }
        return (loaded, leftOut)
    }

    /// PostgreSQL sums up the rows of the new table: they are those of the files.
    private func compare(_ table: String, with loaded: RowChecksum, _ check: ArchiveCheck) async throws {
        await screen.begin("checking the table", total: loaded.rows)
        let snapshot = TableSnapshot(settings: settings.postgres, table: table)
        _ = try await snapshot.begin()
        let found = try await check.table(snapshot)
        try await snapshot.end()
        await screen.end()
        guard found == loaded else {
            throw ArchiveProblem(
                "table \(table) does not have the rows that were loaded into it: \(found.rows) instead of \(loaded.rows), "
                    + "or other ones. Does somebody write into it already?")
        }
    }

    /// Gives the table its constraints and indexes. Returns how many rows a foreign key would not have.
    private func complete(_ description: String, _ table: String, _ restore: RestoreSession) async throws -> Int64 {
        var removed: Int64 = 0
        for (number, step) in try await restore.steps(description, table).enumerated() {
            print("\(entityType)  \(step.name)")
            fflush(nil)
            if step.removesRows {
                removed += try await remove(step, number, restore)
            } else {
                try await restore.run(step)
            }
            try Task.checkCancellation()
        }
        return removed
    }

    /// Keeps the rows in a file beside the archive, so that nothing goes unseen.
    private func remove(_ step: RestoreSession.Step, _ number: Int, _ restore: RestoreSession) async throws -> Int64 {
        let file = try LeftOutRows(directory: directory, number: number)
        try await restore.beginRemoving(step)
        var isLast = false
        while !isLast {
            let piece = try await restore.nextRemoved()
            isLast = piece.isLast
            try file.append(piece.rows)
        }
        if let path = try file.finish() { print("\(file.rows) rows are left out, and kept in \(path): \(step.name)") }
        return file.rows
    }

    private func flip(_ restore: RestoreSession, _ report: String) async throws {
        try await whenThereIsAGap { () async throws(PostgresError) in
            try await restore.flip(entityType, report: report)
        }
    }

    /// What was loaded is not given up because somebody keeps the fence busy.
    private func whenThereIsAGap<Answer>(_ body: () async throws(PostgresError) -> Answer) async throws -> Answer {
        try await insisting(on: ["55P03", "40P01"], refused: { notice("\($0.message): trying again\n") }, body)
    }

    private func report(_ manifest: Manifest, leftOut: Int64) throws -> String {
        try JSON.object([
            "archive": .text(manifest.archive), "directory": .text(directory.absolutePath),
            "rows_left_out": .integer(leftOut),
        ]).encoded
    }
}

/// A file of rows that a restored table could not take.
private final class LeftOutRows {
    private let directory: ArchiveDirectory
    private let name: String
    private var descriptor: Int32
    private(set) var rows: Int64 = 0

    init(directory: ArchiveDirectory, number: Int) throws(ArchiveProblem) {
        self.directory = directory
        name = "left-out-\(number)-\(Int(time(nil))).csv"
        descriptor = try directory.create(name)
    }

    deinit {
        if descriptor >= 0 { directory.discard(descriptor, name) }
    }

    func append(_ rows: CopiedRows) throws(ArchiveProblem) {
        self.rows += rows.count
        try directory.write(rows.bytes, to: descriptor, name)
    }

    /// Returns where the rows are, nil if there were none.
    func finish() throws(ArchiveProblem) -> String? {
        guard rows > 0 else { return nil }
        try directory.finish(descriptor, name)
        descriptor = -1
        return directory.file(name)
    }
}
