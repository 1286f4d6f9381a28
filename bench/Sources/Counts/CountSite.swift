import CHiredis
import ReactionModel
import RedisStore
import TestSupport

/// Posts whose counts Redis keeps.
struct CountSite {
    static let pagePosts = 100
    static let kinds = ["Like", "Heart", "Laugh", "Cry"]

    let stack: Stack
    let session: PostgresConnection
    let posts: Int

    static func make(_ stack: Stack, posts: Int) async throws -> CountSite {
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Post')")
        let site = CountSite(stack: stack, session: session, posts: posts)
        try site.install()
        return site
    }

    /// Post `n` has n % 7 + k reactions of the k-th kind.
    static func count(_ post: Int64, _ kind: Int) -> Int64 { post % 7 * 1000 + Int64(kind) }

    func key(_ post: Int64) throws -> [UInt8] {
        KeySpace(prefix: Array(stack.prefix.utf8))
            .key(
                try KeyTemplate("post:<shard>:<entity>", required: "<entity>"), id: post, shardCount: 100,
                suffix: KeySpace.countsSuffix)
    }

    private func install() throws {
        let redis = try stack.redis.connect()
        let info = try redis.command("INFO", "server", "replication").string ?? ""
        let row = try session.query("SELECT system_identifier, timeline FROM reactions._cluster()")[0]
        let stamp = Stamp(
            redisHistory: RedisIdentity(info: Array(info.utf8)[...])?.history ?? [],
            systemIdentifier: UInt64(bitPattern: Int64(row[0] ?? "") ?? 0),
            timeline: UInt32(row[1] ?? "") ?? 0, epoch: 0)
        for post in 1...Int64(posts) {
            let marker = EntityMarker(
                nonce: makeNonce(), tier: .regular,
                counted: CountedChunk(batch: BatchNumber(rawValue: 1), part: 0), builtAt: 1_767_225_600)
            let counts = Self.kinds.indices.map { Self.count(post, $0) }
            let fields =
                [("_", String(decoding: marker.text(stamp: stamp), as: UTF8.self))]
                + zip(Self.kinds, counts.map(String.init)) + [("total", "\(counts.reduce(0, +))"), ("users", "9")]
            try redis.command(
                bytes: [Array("HSET".utf8), key(post)] + fields.flatMap { [Array($0.utf8), Array($1.utf8)] })
        }
    }

    static let pageIDs = "ARRAY(SELECT generate_series($1::bigint, $1 + \(pagePosts - 1)))"
    static let read = "SELECT entity_id, kind, count FROM reactions.counts(\(pageIDs), 'Post')"
    static let returnRows = """
        SELECT id, kind, 0::bigint FROM unnest(\(pageIDs)) id, unnest('{\(kinds.joined(separator: ","))}'::text[]) kind
        """
    static let buildIDs = "SELECT \(pageIDs)"
}

/// The floor: hiredis, the commands of a page formatted in advance and sent at once, nothing done with the answers.
final class RawPipeline {
    private let connection: RedisConnection

    init(_ stack: Stack) throws {
        connection = try stack.redis.connect()
    }

    /// The commands that read the posts' counts, one after the other in the wire's form.
    static func page(_ site: CountSite, _ first: Int64) throws -> [UInt8] {
        var commands = CommandBuffer()
        for post in first..<first + Int64(CountSite.pagePosts) {
            commands.appendReadCounts(
                of: try site.key(post), fields: CountSite.kinds.count,
                arguments: CommandBuffer.countsArguments(CountSite.kinds))
        }
        return commands.bytes
    }

    func run(_ commands: [UInt8], replies: Int) throws {
        try commands.withUnsafeBytes { bytes in
            let start = bytes.bindMemory(to: CChar.self).baseAddress
            guard redisAppendFormattedCommand(connection.context, start, bytes.count) == REDIS_OK else {
                throw BenchmarkError("hiredis took no commands")
            }
        }
        for _ in 0..<replies {
            var reply: UnsafeMutableRawPointer?
            guard redisGetReply(connection.context, &reply) == REDIS_OK, let reply else {
                throw BenchmarkError("Redis did not answer")
            }
            let type = reply.assumingMemoryBound(to: redisReply.self).pointee.type
            freeReplyObject(reply)
            guard type != REDIS_REPLY_ERROR else { throw BenchmarkError("Redis answered with an error") }
        }
    }
}
