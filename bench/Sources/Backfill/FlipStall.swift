import Glibc
import TestSupport

/// How long writers wait while the phase is flipped: as many of them as in the figure, all the time, and one flip after the other.
struct FlipStall {
    static let clients = 16

    let site: BackfillSite
    let flips: Int

    struct Outcome {
        var duringFlips = Samples()
        var between = Samples()
        var flips = Samples()
        /// Transactions that were refused with 40001 because the phase changed while they waited.
        var retried = 0
    }

    private struct Write: Sendable {
        let began: Double
        let ended: Double
        let wasRefused: Bool
    }

    func run() async throws -> Outcome {
        let isOver = EndSignal()
        async let writing = runClients(Self.clients) { [site] client in try Self.write(client, site, until: isOver) }
        var times: [(began: Double, ended: Double)] = []
        // There and back, between phases in which every writer writes the table.
        for round in 0..<flips {
            try await Task.sleep(for: .milliseconds(200))
            let began = microseconds()
            try site.session.execute(
                round % 2 == 0 ? "CALL reactions.advance('Image', force => true)" : "CALL reactions.rollback('Image')")
            times.append((began, microseconds()))
        }
        isOver.raise()
        var outcome = Outcome()
        for flip in times { outcome.flips.add(flip.ended - flip.began) }
        for write in try await writing.joined() {
            outcome.retried += write.wasRefused ? 1 : 0
            if times.contains(where: { write.began <= $0.ended && write.ended >= $0.began }) {
                outcome.duringFlips.add(write.ended - write.began)
            } else {
                outcome.between.add(write.ended - write.began)
            }
        }
        return outcome
    }

    /// Half of the clients write by the function, half by their own SQL. One sample is one transaction, refused or not.
    private static func write(_ client: Int, _ site: BackfillSite, until isOver: EndSignal) throws -> [Write] {
        let session = try site.stack.connect()
        let statement = try PreparedStatement(
            session,
            client % 2 == 0
                ? "SELECT reactions.react($1::bigint, $2::bigint, 'Like', 'Image')"
                : #"INSERT INTO "ImageReaction" ("userId", "imageId", reaction) VALUES ($1::bigint, $2::bigint, 'Like')"#
        )
        var writes: [Write] = []
        var image: Int64 = 1_100_000
        while !isOver.isRaised {
            image += 1
            let began = microseconds()
            var wasRefused = false
            do {
                try statement.run([.bigint(Int64(client + 1)), .bigint(image)]) { _ in }
            } catch let error as BenchmarkError where error.description.contains("changed its phase") {
                wasRefused = true
            }
            writes.append(Write(began: began, ended: microseconds(), wasRefused: wasRefused))
        }
        return writes
    }
}
