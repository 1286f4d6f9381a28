internal import CZlib

/// Compresses or expands a stream of gzip, piece by piece.
final class GzipStream {
    enum Direction {
        case compress
        case expand
    }

    /// Window of 32 KiB, and 16 for gzip's header instead of zlib's.
    private static let windowBits: Int32 = 15 + 16
    private static let room = 1 << 18

    // zlib checks that its state is used at the address at which it was made.
    private let stream: UnsafeMutablePointer<z_stream>
    private let direction: Direction
    private let isReady: Bool
    private let output = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: room)
    /// The end mark has been read: nothing may follow.
    private(set) var isAtEnd = false

    init(_ direction: Direction) {
        self.direction = direction
        stream = .allocate(capacity: 1)
        stream.initialize(to: z_stream())
        let size = Int32(MemoryLayout<z_stream>.size)
        isReady =
            switch direction {
            case .compress:
                deflateInit2_(
                    stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, Self.windowBits, 8, Z_DEFAULT_STRATEGY, ZLIB_VERSION,
                    size)
                    == Z_OK
            case .expand: inflateInit2_(stream, Self.windowBits, ZLIB_VERSION, size) == Z_OK
            }
    }

    deinit {
        if isReady {
            switch direction {
            case .compress: deflateEnd(stream)
            case .expand: inflateEnd(stream)
            }
        }
        stream.deallocate()
        output.deallocate()
    }

    /// Hands over what the bytes make, in pieces that are valid for the call.
    ///
    /// - Parameter isLast: ends the stream (compressing).
    func process(
        _ bytes: UnsafeRawBufferPointer, isLast: Bool = false,
        _ body: (UnsafeRawBufferPointer) throws(ArchiveProblem) -> Void
    ) throws(ArchiveProblem) {
        guard isReady, let count = uInt(exactly: bytes.count) else { throw ArchiveProblem("zlib is short of memory") }
        stream.pointee.next_in = UnsafeMutablePointer(
            mutating: bytes.baseAddress?.assumingMemoryBound(to: UInt8.self))
        stream.pointee.avail_in = count
        while true {
            if direction == .expand, isAtEnd, stream.pointee.avail_in > 0 {
                throw ArchiveProblem("it goes on after its end")
            }
            guard !isAtEnd else { return }
            let (status, written) = step(isLast: isLast)
            isAtEnd = status == Z_STREAM_END
            // Z_BUF_ERROR: nothing left to be done with what there is.
            guard status == Z_OK || status == Z_STREAM_END || status == Z_BUF_ERROR else {
                throw ArchiveProblem("it is no sound gzip (zlib's error \(status))")
            }
            if written > 0 {
                try body(UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: output[..<written])))
            }
            if written < Self.room, !isAtEnd || stream.pointee.avail_in == 0 { return }
        }
    }

    private func step(isLast: Bool) -> (status: Int32, written: Int) {
        stream.pointee.next_out = output.baseAddress
        stream.pointee.avail_out = uInt(output.count)
        let status =
            switch direction {
            case .compress: deflate(stream, isLast ? Z_FINISH : Z_NO_FLUSH)
            case .expand: inflate(stream, Z_NO_FLUSH)
            }
        return (status, output.count - Int(stream.pointee.avail_out))
    }
}
