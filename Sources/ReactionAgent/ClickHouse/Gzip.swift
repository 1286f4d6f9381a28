import CZlib

/// Gzip at the fastest level, or, where the way costs nothing, as it is. Every body goes out with its own end mark and checksum: ClickHouse 18.16 takes a plain body that was cut
/// off at the end of a row for a whole one.
final class Gzip {
    /// Window of 32 KiB, and 16 for gzip's header instead of zlib's.
    private static let windowBits: Int32 = 15 + 16

    // zlib checks that its state is used at the address at which it was made.
    private let stream: UnsafeMutablePointer<z_stream>
    private let isReady: Bool

    /// - Parameter compresses: false for stored blocks: a checksum and an end mark for a tenth of the time.
    init(compresses: Bool) {
        stream = .allocate(capacity: 1)
        stream.initialize(to: z_stream())
        isReady =
            deflateInit2_(
                stream, compresses ? Z_BEST_SPEED : Z_NO_COMPRESSION, Z_DEFLATED, Self.windowBits, 8,
                Z_DEFAULT_STRATEGY, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK
    }

    deinit {
        if isReady { deflateEnd(stream) }
        stream.deallocate()
    }

    /// Nil if memory is short or there are 4 GiB or more.
    func compress(_ bytes: [UInt8]) -> [UInt8]? {
        guard isReady, let count = uInt(exactly: bytes.count), deflateReset(stream) == Z_OK else { return nil }
        let bound = deflateBound(stream, uLong(count))
        guard let room = uInt(exactly: bound) else { return nil }
        var isWhole = false
        let compressed = [UInt8](unsafeUninitializedCapacity: Int(bound)) { output, written in
            bytes.withUnsafeBufferPointer { input in
                stream.pointee.next_in = UnsafeMutablePointer(mutating: input.baseAddress)
                stream.pointee.avail_in = count
                stream.pointee.next_out = output.baseAddress
                stream.pointee.avail_out = room
                isWhole = deflate(stream, Z_FINISH) == Z_STREAM_END
                written = Int(room - stream.pointee.avail_out)
            }
        }
        return isWhole ? compressed : nil
    }
}
