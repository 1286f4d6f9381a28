import Foundation
import Glibc
import TestSupport
import Testing

@Suite struct ServerTests {
    @Test func aPostgresServerAnswersAndCanBeRestartedAfterACrash() async throws {
        let server = try await PostgresServer.start(configuration: ["work_mem": "5MB"])
        #expect(try server.connect().value("SHOW work_mem") == "5MB")
        let database = try server.createDatabase()
        try server.connect(database: database).execute("CREATE TABLE kept (x int); INSERT INTO kept VALUES (1)")
        server.stop(SIGQUIT)
        #expect(!server.process.isRunning)
        try await server.start()
        #expect(try server.connect(database: database).value("SELECT $1::int + x FROM kept", ["41"]) == "42")
    }

    @Test func aPostgresErrorCarriesItsSQLSTATE() async throws {
        let connection = try await PostgresServer.shared.value.connect()
        let error = try #require(throws: PostgresError.self) { try connection.query("SELECT 1 / 0") }
        #expect(error.sqlstate == "22012")
    }

    @Test func aRedisServerAnswersAndIsAnotherProcessAfterARestart() async throws {
        let server = try await RedisServer.start(configuration: ["maxmemory 10mb"])
        #expect(try server.connect().command("SET", "a", "1") == .string("OK"))
        #expect(try server.connect().command("CONFIG", "GET", "maxmemory").array?.last == .string("10485760"))
        try await server.restart()
        #expect(try server.connect().command("GET", "a") == .null)
    }

    @Test func aClickHouseServerAnswersAndReportsErrors() async throws {
        let server = try await ClickHouseServer.shared.value
        #expect(try server.rows("SELECT 1, 'a'") == [["1", "a"]])
        let error = try #require(throws: ClickHouseError.self) { try server.query("SELECT * FROM missing") }
        #expect(error.status == 404)
    }

    @Test func theGatewayAnswersAndReportsErrorsWithTheirCode() async throws {
        let gateway = try await ChdbServer.shared.value
        #expect(try gateway.rows("SELECT 1, 'a'") == [["1", "a"]])
        let error = try #require(throws: ClickHouseError.self) { try gateway.query("SELECT * FROM missing") }
        #expect(error.status == 404)
        #expect(error.code == 60)
    }

    @Test func theGatewayKeepsItsDataOverARestart() async throws {
        let gateway = try await ChdbServer.start()
        let database = try gateway.createDatabase()
        try gateway.query("CREATE TABLE kept (x Int64) ENGINE = MergeTree ORDER BY x", database: database)
        try gateway.query(
            "INSERT INTO kept (x) FORMAT RowBinary", database: database,
            body: Data([7, 0, 0, 0, 0, 0, 0, 0]))
        try await gateway.restart()
        #expect(try gateway.rows("SELECT x FROM kept", database: database) == [["7"]])
    }
}
