import Foundation
import TestSupport

/// A run of pgbench with a script, prepared statements, and the times of its transactions.
struct Pgbench {
    struct Outcome {
        /// Transactions per second, connecting left out.
        let throughput: Double
        let times: Samples
    }

    let stack: Stack
    let clients: Int
    let seconds: Int
    /// Of the random numbers: runs with the same one draw the same.
    var seed = 1

    /// - Parameters:
    ///   - script: as in pgbench(1).
    ///   - setup: run once by each client before it is measured, as a part of the connection string's options.
    func run(_ script: String, options: String = "") async throws -> Outcome {
        let mix = try await run([Script(name: "", weight: 1, text: script)], options: options)
        return Outcome(throughput: mix.throughput, times: mix.times[0])
    }

    /// One of several scripts, drawn in proportion to its weight.
    struct Script {
        let name: String
        let weight: Int
        let text: String
    }

    /// - Returns: transactions per second of all, and the times of each script.
    func run(_ scripts: [Script], options: String = "") async throws -> (throughput: Double, times: [Samples]) {
        let directory = try TemporaryDirectory(owner: "postgres")
        for (index, script) in scripts.enumerated() { try directory.write("script\(index).sql", script.text) }
        let conninfo =
            stack.postgres.conninfo(database: stack.database) + (options.isEmpty ? "" : " options='\(options)'")
        let output = try await PostgresServer.tool(
            "pgbench",
            [
                "--no-vacuum", "--protocol=prepared", "--log",
                "--log-prefix=\(directory.file("times"))", "--client=\(clients)", "--jobs=\(min(clients, 2))",
                "--time=\(seconds)", "--random-seed=\(seed)",
            ] + scripts.enumerated().map { "--file=\(directory.file("script\($0).sql"))@\($1.weight)" } + [conninfo])
        guard
            let line = output.split(separator: "\n").first(where: { $0.hasPrefix("tps = ") }),
            let throughput = Double(line.dropFirst(6).prefix { $0 != " " })
        else { throw BenchmarkError("pgbench printed no throughput:\n\(output)") }
        guard output.contains("number of failed transactions: 0 ") else {
            throw BenchmarkError("transactions of pgbench have failed:\n\(output)")
        }
        return (throughput, try times(in: directory.path, scripts: scripts.count))
    }

    /// The third column of each line of each log is a transaction's time in microseconds, the fourth its script.
    private func times(in directory: String, scripts: Int) throws -> [Samples] {
        var samples = Array(repeating: Samples(), count: scripts)
        for name in try FileManager.default.contentsOfDirectory(atPath: directory) where name.hasPrefix("times") {
            for line in try String(contentsOfFile: directory + "/" + name, encoding: .utf8).split(separator: "\n") {
                let columns = line.split(separator: " ")
                guard columns.count > 3, let time = Double(columns[2]), let script = Int(columns[3]), script < scripts
                else { continue }
                samples[script].add(time)
            }
        }
        return samples
    }
}

/// Something that is run for a while at full load.
struct LoadContender {
    let name: String
    let what: String
    let run: () async throws -> Pgbench.Outcome
}

/// The median throughput of several runs of each contender, in turn.
func measureLoadInTurn(_ contenders: [LoadContender], rounds: Int) async throws -> [String: LoadResult] {
    var results = [String: LoadResult](uniqueKeysWithValues: contenders.map { ($0.name, LoadResult()) })
    for _ in 0..<rounds {
        for contender in contenders {
            let outcome = try await contender.run()
            results[contender.name]?.throughputs.append(outcome.throughput)
            for time in outcome.times.values { results[contender.name]?.times.add(time) }
        }
    }
    return results
}

struct LoadResult {
    var throughputs: [Double] = []
    var times = Samples()

    var throughput: Double {
        let sorted = throughputs.sorted()
        return sorted.isEmpty ? .nan : sorted[sorted.count / 2]
    }
}

extension Report {
    /// Throughput, median and p99 of each contender.
    func table(_ contenders: [LoadContender], _ results: [String: LoadResult]) {
        table(
            ["contender", "per second", "median ms", "p99 ms", "what it is"],
            contenders.map { contender in
                let result = results[contender.name] ?? LoadResult()
                return [
                    contender.name, number(result.throughput, 0), number(result.times.median / 1000, 2),
                    number(result.times.p99 / 1000, 2), contender.what,
                ]
            })
    }
}
