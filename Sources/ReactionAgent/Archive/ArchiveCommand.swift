internal import Glibc
internal import PostgresSource

/// Writes the frozen table of a type into files, proves that they hold it, and takes the type to phase archived.
///
/// Whatever ends it before its last transaction leaves the phase and the table as they were. docs/internals.md, "Archive", has the rules.
public struct ArchiveCommand: Sendable {
    /// What becomes of the table.
    public enum Disposition: String, Sendable, CaseIterable {
        case rename
        case drop
        case keep
    }

    private let settings: Settings
    private let version: String
    private let entityType: String
    private let directory: ArchiveDirectory
    private let disposition: Disposition
    private let maxFileRows: Int64
    private let screen: ArchiveScreen

    public init(
        settings: Settings, version: String, entityType: String, directory: String, disposition: Disposition,
        maxFileRows: Int64
    ) {
        self.settings = settings
        self.version = version
        self.entityType = entityType
        self.directory = ArchiveDirectory(path: directory)
        self.disposition = disposition
        self.maxFileRows = maxFileRows
        screen = ArchiveScreen(entityType: entityType)
    }

    public func run() async throws {
        let (session, type) = try await ArchiveSession.begin(settings, entityType)
        guard type.phase == "stop_writes", let table = type.table, let stopVersion = type.stopVersion else {
            return try await explain(type)
        }
        if let problem = try await session.hold(table) { throw ArchiveProblem(problem) }
        try await refuseObstacles(session, table)

        let manifest = try await writtenOrFound(type, table)
        try await match()
        let (conditions, missing) = try await session.readiness(entityType)
        guard missing.isEmpty else {
            throw ArchiveProblem(
                "entity type \(entityType) is not ready to be archived:\n  " + missing.joined(separator: "\n  "))
        }
        // By the lock that the session holds rows can only have gone.
        let left = try await session.count(table)
        guard left <= manifest.rows else {
            throw ArchiveProblem("table \(table) has \(left) rows, more than the \(manifest.rows) that were archived")
        }
        let report = try report(manifest, conditions, removed: manifest.rows - left)
        let name = try await session.archive(
            entityType, stopVersion: stopVersion, disposition: disposition.rawValue, report: report)
        print(
            "\(entityType)  archived: \(manifest.rows) rows in \(manifest.files.count) files; \(outcome(table, name))")
        if left < manifest.rows {
            print("\(manifest.rows - left) rows were removed by foreign keys since; their events are in ClickHouse")
        }
    }

    /// Whoever asks again for what is done is told so; otherwise why it cannot be done.
    private func explain(_ type: ArchivedType) async throws {
        guard type.phase == "archived", let last = try type.lastArchive.map({ try JSON(parsing: $0) }) else {
            throw ArchiveProblem(
                "entity type \(entityType) is in phase \(type.phase): only a table that takes no more writes (stop_writes) can be archived"
            )
        }
        let path = last["directory"]?.text ?? "nowhere"
        let bytes = try? directory.read(Manifest.fileName)
        guard let bytes, try SHA256.hex(of: bytes) == last["manifest_sha256"]?.text else {
            throw ArchiveProblem("entity type \(entityType) is archived already, in \(path)")
        }
        print("\(entityType)  is archived already, in this directory")
    }

    private func refuseObstacles(_ session: ArchiveSession, _ table: String) async throws {
        for publication in try await session.embracingPublications(table) {
            print("note: publication \(publication) publishes all tables, with this one among them")
        }
        let obstacles = try await session.obstacles(entityType, disposition: disposition.rawValue)
        guard obstacles.isEmpty else {
            throw ArchiveProblem(
                "table \(table) is still needed; with --then keep it would stay as it is\n  "
                    + obstacles.map { "\($0.obstacle): \($0.hint)" }.joined(separator: "\n  "))
        }
    }

    // MARK: The files

    private func writtenOrFound(_ type: ArchivedType, _ table: String) async throws -> Manifest {
        let state = try directory.prepare()
        let snapshot = TableSnapshot(settings: settings.postgres, table: table)
        let description = try await snapshot.begin()
        let manifest: Manifest
        if state == .finished {
            manifest = try await found(type, description, snapshot)
        } else {
            if state == .unfinished { print("\(directory.path) has an archive that was interrupted: starting over") }
            try directory.removeUnfinished()
            do {
                manifest = try await written(type, description, snapshot)
            } catch {
                try? directory.removeUnfinished()
                throw error
            }
        }
        try await snapshot.end()
        return manifest
    }

    private func written(
        _ type: ArchivedType, _ description: TableSnapshot.Description, _ snapshot: TableSnapshot
    ) async throws -> Manifest {
        let files = try await write(description, snapshot)
        let header = Manifest.header(description.columns)
        let sums = try await check(
            files.map { .init(name: $0.name, rows: $0.rows, sha256: $0.sha256) }, header: header, snapshot)
        let total = sums.reduce(RowChecksum(), +)
        let manifest = Manifest(
            formatVersion: Manifest.currentFormat, productVersion: version, archive: description.identifier,
            snapshotTime: description.snapshotTime, entityType: try JSON(parsing: type.description),
            table: try JSON(parsing: description.table), columns: description.columns, rows: total.rows,
            checksum: "\(total.sum)",
            files: zip(files, sums).map {
                .init(name: $0.name, rows: $0.rows, bytes: $0.bytes, sha256: $0.sha256, checksum: "\($1.sum)")
            })
        try directory.write(try manifest.encoded(), as: Manifest.fileName)
        return manifest
    }

    private func write(
        _ description: TableSnapshot.Description, _ snapshot: TableSnapshot
    ) async throws -> [ArchiveWriter.Written] {
        let writer = ArchiveWriter(
            directory: directory, header: Manifest.header(description.columns), maxFileRows: maxFileRows)
        await screen.begin("writing", total: description.rows)
        try await snapshot.beginRows()
        var room = maxFileRows
        var piece = try await snapshot.nextRows(limit: room)
        while true {
            let (rows, isLast) = piece
            room -= rows.count
            if room <= 0 { room = maxFileRows }
            // The next rows are read while these are compressed.
            let limit = room
            async let next = isLast ? nil : snapshot.nextRows(limit: limit)
            if rows.count > 0 { try await writer.append(rows) }
            await screen.add(rows: rows.count)
            guard let found = try await next else { break }
            piece = found
        }
        let files = try await writer.finish()
        await screen.end()
        return files
    }

    /// The files are read back and the table is summed up, side by side and by different means: they must agree.
    private func check(
        _ claims: [ArchiveCheck.Claim], header: String, _ snapshot: TableSnapshot
    ) async throws -> [RowChecksum] {
        await screen.begin("reading back", total: claims.reduce(0) { $0 + $1.rows } * 2)
        let check = ArchiveCheck(directory: directory, header: header, screen: screen)
        async let inTable = check.table(snapshot)
        let inFiles = try await check.files(claims)
        let total = inFiles.reduce(RowChecksum(), +)
        guard try await inTable == total else {
            throw ArchiveProblem(
                "\(directory.path): the files do not hold what the table has: \(total.rows) rows instead of "
                    + "\(try await inTable.rows), or other ones")
        }
        await screen.end()
        return inFiles
    }

    /// A finished archive, whose last step is missing: it is used if it still holds the table.
    private func found(
        _ type: ArchivedType, _ description: TableSnapshot.Description, _ snapshot: TableSnapshot
    ) async throws -> Manifest {
        let manifest = try Manifest.decode(try directory.read(Manifest.fileName))
        print("\(directory.path) has a finished archive: checking it")
        guard manifest.entityTypeName == entityType, manifest.stopVersion == type.stopVersion,
            // A crash moves sequences on, by values that nobody has.
            manifest.table.without("sequences") == (try JSON(parsing: description.table)).without("sequences"),
            manifest.columns == description.columns
        else {
            throw ArchiveProblem(
                "the archive in \(directory.path) is of another table, or of this one before it was changed: name another directory"
            )
        }
        do {
            let sums = try await check(manifest.claims, header: manifest.header, snapshot)
            guard sums.reduce(RowChecksum(), +) == (try manifest.total) else {
                throw ArchiveProblem("\(Manifest.fileName) has another checksum than its files")
            }
        } catch let problem as ArchiveProblem {
            throw ArchiveProblem("\(problem). Remove it, or name another directory")
        }
        return manifest
    }

    // MARK: The last step

    private func match() async throws {
        let source = MatchSource(settings: settings.postgres)
        try await source.open()
        guard try await source.takeLock(within: settings.match.patience) else {
            throw ArchiveProblem("another match is running: reactions.match_run shows how far it is; try again")
        }
        let matching = RecordedMatch(
            settings: settings.match, postgres: settings.postgres, clickHouse: settings.clickHouse, source: source)
        let screen = screen
        await screen.begin("matching", total: 0)
        let outcome = try await matching.run(entityType) { result, expected in
            await screen.show(rows: result.rows, of: expected)
        }
        await screen.end()
        guard outcome.result.faults == 0, outcome.result.inFlight == 0 else {
            throw ArchiveProblem(
                "ClickHouse does not hold what the table has: \(outcome.result.faults) reactions differ, "
                    + "\(outcome.result.inFlight) could not be judged; reactions.differences lists them (run \(outcome.run))"
            )
        }
    }

    private func report(_ manifest: Manifest, _ conditions: String, removed: Int64) throws -> String {
        let report = JSON.object([
            "archive": .text(manifest.archive), "directory": .text(directory.absolutePath),
            "manifest_sha256": .text(try SHA256.hex(of: directory.read(Manifest.fileName))),
            "rows": .integer(manifest.rows), "rows_removed_since": .integer(removed),
            "then": .text(disposition.rawValue), "conditions": try JSON(parsing: conditions),
        ])
        return try report.encoded
    }

    private func outcome(_ table: String, _ name: String?) -> String {
        switch disposition {
        case .rename: "table \(table) is now \(name ?? "")"
        case .drop: "table \(table) is dropped"
        case .keep: "table \(table) stays, and takes no writes"
        }
    }
}

extension ArchiveSession {
    /// How each command of an archive begins.
    static func begin(_ settings: Settings, _ entityType: String) async throws -> (ArchiveSession, ArchivedType) {
        Agent.prepareMemory()
        // A limit on the size of files is then an error like a full disk, and not the end of the process.
        signal(SIGXFSZ, SIG_IGN)
        let session = ArchiveSession(settings: settings.postgres.patient)
        try await session.open()
        try IncompatibleExtension.check(try await session.extensionVersion())
        return (session, try await session.type(entityType))
    }
}
