import TestSupport

/// The least that a mirror could be: rows by psql's COPY into clickhouse-client, into tables of the mirror's form in a database of its own.
struct Pipe {
    let database = uniqueName("pipe")
    private let stack: Stack
    private let clickHouse: ClickHouseServer

    static func make(_ stack: Stack, _ clickHouse: ClickHouseServer) async throws -> Pipe {
        let pipe = Pipe(stack: stack, clickHouse: clickHouse)
        try await stack.reactiond("init-clickhouse", "--set", "clickhouse.database=\(pipe.database)")
        return pipe
    }

    private init(stack: Stack, clickHouse: ClickHouseServer) {
        self.stack = stack
        self.clickHouse = clickHouse
    }

    /// The seconds it takes to fill the tables, one after the other. They are emptied before.
    func fill(_ queries: [(table: String, query: String)]) async throws -> Double {
        try clickHouse.truncateMirror(database)
        let psql = try PostgresServer.binaries() + "/psql"
        let conninfo = stack.postgres.conninfo(database: stack.database)
        let start = microseconds()
        for (table, query) in queries {
            try await TestSupport.run(
                [
                    "/bin/bash", "-c",
                    """
                    set -o pipefail
                    "$0" -XqAt -d "$1" -c "COPY ($2) TO STDOUT" | clickhouse-client --port "$3" --user "$4" --password "$5" \
                        --database "$6" --query "INSERT INTO $7 FORMAT TabSeparated"
                    """,
                    psql, conninfo, query, String(clickHouse.tcpPort), clickHouse.user, clickHouse.password, database,
                    table,
                ], within: .seconds(900))
        }
        return (microseconds() - start) / 1e6
    }
}

extension ClickHouseServer {
    func truncateMirror(_ database: String) throws {
        for table in MirrorRows.tables { try query("TRUNCATE TABLE \(table)", database: database) }
    }
}
