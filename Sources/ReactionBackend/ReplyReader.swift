import CHiredis
import RedisStore

/// hiredis's protocol parser writing into a reply arena: no object and no allocation per element.
///
/// Safe because: the parser calls back only within `feed`, with the pointer to this object that it was given, and is freed with it.
final class ReplyReader {
    /// More than this in one conversation is not an answer to any of our commands.
    static let byteLimit = 64 << 20

    enum Problem: Error {
        case outOfMemory
        case protocolViolation
        case tooLong
    }

    private(set) var replies = ReplyArena()
    /// Complete replies since the last reset.
    private(set) var replyCount = 0
    private var byteCount = 0
    private var reader: UnsafeMutablePointer<redisReader>?

    deinit {
        redisReaderFree(reader)
    }

    /// Forgets everything, also a reply that is half read.
    func reset() {
        redisReaderFree(reader)
        reader = nil
        startConversation()
    }

    /// Drops the replies of the last conversation, which was read to its end.
    func startConversation() {
        replies.removeAll()
        replyCount = 0
        byteCount = 0
    }

    /// Parses what has arrived.
    func feed(_ bytes: UnsafeRawBufferPointer) throws(Problem) {
        if reader == nil {
            reader = withUnsafeMutablePointer(to: &replyFunctions, redisReaderCreateWithFunctions)
        }
        guard let reader else { throw .outOfMemory }
        reader.pointee.privdata = Unmanaged.passUnretained(self).toOpaque()
        byteCount += bytes.count
        guard byteCount <= Self.byteLimit else { throw .tooLong }
        let start = bytes.bindMemory(to: CChar.self).baseAddress
        guard redisReaderFeed(reader, start, bytes.count) == REDIS_OK else { throw .outOfMemory }
        while true {
            var reply: UnsafeMutableRawPointer?
            guard redisReaderGetReply(reader, &reply) == REDIS_OK else { throw .protocolViolation }
            guard reply != nil else { return }
            replyCount += 1
        }
    }

    fileprivate func append(_ node: ReplyArena.Node) {
        replies.append(node)
    }

    fileprivate func appendText(_ text: UnsafeRawBufferPointer, isError: Bool) {
        replies.appendText(text, isError: isError)
    }
}

/// hiredis keeps a pointer to this table.
///
/// Safe because: it is never changed after it was made, and a backend has one thread.
private nonisolated(unsafe) var replyFunctions = redisReplyObjectFunctions(
    createString: { task, text, length in
        withReader(task) { reader in
            let text = UnsafeRawBufferPointer(start: text, count: text == nil ? 0 : length)
            reader.appendText(text, isError: task?.pointee.type == REDIS_REPLY_ERROR)
        }
    },
    createArray: { task, count in
        withReader(task) { reader in reader.append(.array(Int(count))) }
    },
    createInteger: { task, number in
        withReader(task) { reader in reader.append(.integer(number)) }
    },
    createNil: { task in
        withReader(task) { reader in reader.append(.null) }
    },
    freeObject: { _ in }
)

/// Returns what hiredis takes for the object that was made; nil would mean out of memory.
private func withReader(
    _ task: UnsafePointer<redisReadTask>?, _ body: (ReplyReader) -> Void
) -> UnsafeMutableRawPointer? {
    guard let reader = task?.pointee.privdata else { return nil }
    Unmanaged<ReplyReader>.fromOpaque(reader)._withUnsafeGuaranteedRef(body)
    return reader
}
