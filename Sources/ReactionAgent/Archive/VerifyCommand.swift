internal import PostgresSource

/// `reactiond archive --verify-only`: reads an archive back and changes nothing.
public struct VerifyCommand: Sendable {
    private let settings: Settings
    private let entityType: String
    private let directory: ArchiveDirectory

    public init(settings: Settings, entityType: String, directory: String) {
        self.settings = settings
        self.entityType = entityType
        self.directory = ArchiveDirectory(path: directory)
    }

    public func run() async throws {
        let (_, type) = try await ArchiveSession.begin(settings, entityType)
        // Before the last step nobody but the manifest itself knows what it should say.
        let manifest =
            type.phase == "archived"
            ? try ArchiveCheck.manifest(of: type, entityType, in: directory)
            : try Manifest.decode(try directory.read(Manifest.fileName))
        guard manifest.entityTypeName == entityType else {
            throw ArchiveProblem("the archive in \(directory.path) is of entity type \(manifest.entityTypeName)")
        }
        let screen = ArchiveScreen(entityType: entityType)
        await screen.begin("reading back", total: manifest.rows)
        let sums = try await ArchiveCheck(directory: directory, header: manifest.header, screen: screen)
            .files(manifest.claims)
        await screen.end()
        guard sums.reduce(RowChecksum(), +) == (try manifest.total) else {
            throw ArchiveProblem("\(Manifest.fileName) has another checksum than its files")
        }
        print("\(entityType)  \(manifest.rows) rows in \(manifest.files.count) files are as they were written")
        guard type.phase == "archived" else {
            return print("the type is in phase \(type.phase): the phase log does not confirm this archive")
        }
    }
}
