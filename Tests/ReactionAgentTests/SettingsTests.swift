import Foundation
import Pipeline
import PostgresSource
import RedisStore
import TestSupport
import Testing

@testable import ReactionAgent

@Suite struct SettingsTests {
    private func load(
        yaml: String? = nil, mode: Int = 0o600, set: [String] = [], environment: [String: String] = [:]
    ) async throws -> Settings {
        let directory = try TemporaryDirectory()
        guard let yaml else { return try await Settings.load(file: nil, assignments: set, environment: environment) }
        try directory.write("reactiond.yaml", yaml)
        let path = directory.file("reactiond.yaml")
        try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: path)
        return try await Settings.load(file: path, assignments: set, environment: environment)
    }

    @Test func everyDefaultCanBeRead() async throws {
        let settings = try await load()
        #expect(try settings.redis.endpoint == RedisEndpoint("redis://127.0.0.1:6379/0"))
        #expect(settings.mirror.redisGiveUp == .seconds(30))
        #expect(settings.limits.retention == .seconds(600))
        #expect(settings.limits.rotateBytes == 256 << 20)
        #expect(settings.httpPort == nil)
        #expect(settings.clickHouse.password.isEmpty)
    }

    @Test func theCommandLineWinsOverTheEnvironmentAndThatOverTheFile() async throws {
        let yaml = "clickhouse:\n  user: file\n  database: file\n  timeout: 7s\n"
        let settings = try await load(
            yaml: yaml, set: ["clickhouse.user=flag"],
            environment: ["REACTIOND_CLICKHOUSE_USER": "environment", "REACTIOND_CLICKHOUSE_DATABASE": "environment"])
        #expect(settings.clickHouse.user == "flag")
        #expect(settings.clickHouse.database == "environment")
        #expect(settings.clickHouse.requestTimeout == .seconds(7))
    }

    @Test func numbersInTheFileNeedNoQuotes() async throws {
        let settings = try await load(yaml: "agent:\n  http_port: 9187\nmirror:\n  chunk_events: 5\n")
        #expect(settings.httpPort == 9187)
        #expect(settings.limits.chunkEvents == 5)
    }

    @Test func secretsComeFromPrivateFilesOrTheEnvironmentOnly() async throws {
        let yaml = "redis:\n  password: hidden\n"
        #expect(try await load(yaml: yaml).redis.login.password == "hidden")
        await #expect(throws: SettingsError.self) { try await load(yaml: yaml, mode: 0o644) }
        await #expect(throws: SettingsError.self) { try await load(set: ["redis.password=hidden"]) }
        #expect(try await load(environment: ["REACTIOND_REDIS_PASSWORD": "hidden"]).redis.login.password == "hidden")

        let directory = try TemporaryDirectory()
        try directory.write("password", "hidden\n")
        let path = directory.file("password")
        try FileManager.default.setAttributes([.posixPermissions: 0o640], ofItemAtPath: path)
        await #expect(throws: SettingsError.self) { try await load(set: ["redis.password_file=\(path)"]) }
        try FileManager.default.setAttributes([.posixPermissions: 0o400], ofItemAtPath: path)
        #expect(try await load(set: ["redis.password_file=\(path)"]).redis.login.password == "hidden")
    }

    @Test(arguments: [
        "redis.url=http://x", "redis.url=redis://user:secret@x", "redis.give_up=30", "mirror.chunk_events=0",
        "outbox.rotate_size=-1MB", "agent.http_port=70000", "agent.log_level=loud", "no.setting=1", "redis.url",
        "postgres.timeout=99999999999s",
        "clickhouse.url=localhost:8123",
    ])
    func whatCannotBeUsedIsRefused(assignment: String) async throws {
        await #expect(throws: SettingsError.self) { try await load(set: [assignment]) }
    }

    @Test func aMissingFileIsRefused() async throws {
        await #expect(throws: SettingsError.self) {
            try await Settings.load(file: "/nonexistent", assignments: [], environment: [:])
        }
    }

    @Test func whereRedisIs() throws {
        #expect(try Settings.redisEndpoint("redis://h:1/3") == RedisEndpoint("redis://h:1/3"))
        let error = try #require(throws: SettingsError.self) { try Settings.redisEndpoint("redis://u:secret@h") }
        #expect(error.description.hasPrefix("redis.url is not valid."))
        #expect(!error.description.contains("secret"))
    }

    /// docs/configuration.md is made of the settings. After changing one: UPDATE_DOCS=1 swift test --filter SettingsTests
    @Test func theDocumentationIsUpToDate() throws {
        let path = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../docs/configuration.md")
        if ProcessInfo.processInfo.environment["UPDATE_DOCS"] != nil {
            try Data(documentation.utf8).write(to: path)
        }
        #expect(try String(contentsOf: path, encoding: .utf8) == documentation)
    }

    private var documentation: String {
        let rows = Setting.all.map { setting in
            let standard = setting.standard.isEmpty ? "–" : "`\(setting.standard)`"
            return "| `\(setting.key)` | \(setting.form.rawValue) | \(standard) | \(setting.help) |"
        }
        return """
            # Configuration of reactiond

            This page is made from `Sources/ReactionAgent/Setting.swift`; a test compares the two.

            A setting is taken from the first of these that has it:

            1. `--set key=value` on the command line, any number of times (not for secrets: everybody can read a command line);
            2. the environment: `REACTIOND_` and the key in capitals with `_` for dots, `REACTIOND_REDIS_URL` for `redis.url`;
            3. the YAML file named by `--config`, with a nesting level per dot;
            4. the default.

            Secrets are never printed. In the YAML file they are used only if no one but its owner can read it (mode 0600); a
            `password_file` must not be open to others either. The file is read once, at the start.

            Durations are written `500ms`, `30s`, `10min`, `1h`; sizes `64kB`, `256MB`, `1GB`, in powers of 1024.

                redis:
                  url: unix:///run/redis/redis.sock?db=0
                  password_file: /etc/reactiond/redis.password
                clickhouse:
                  url: http://clickhouse:8123
                agent:
                  http_port: 9187

            | setting | form | default | meaning |
            | --- | --- | --- | --- |
            \(rows.joined(separator: "\n"))

            """
    }
}
