internal import COpenSSL

/// SHA-256 by libcrypto, which libpq and libcurl have loaded anyway.
final class SHA256 {
    static let size = 32

    private let context: OpaquePointer?
    private var isSound: Bool

    init() {
        context = EVP_MD_CTX_new()
        isSound = context != nil && EVP_DigestInit_ex(context, EVP_sha256(), nil) == 1
    }

    deinit {
        EVP_MD_CTX_free(context)
    }

    func update(_ bytes: UnsafeRawBufferPointer) {
        isSound = EVP_DigestUpdate(context, bytes.baseAddress, bytes.count) == 1 && isSound
    }

    /// The digest of what came since the last one.
    func finish() throws(ArchiveProblem) -> [UInt8] {
        var digest = [UInt8](repeating: 0, count: Self.size)
        isSound = isSound && EVP_DigestFinal_ex(context, &digest, nil) == 1
        // Without a type the context goes on with the one that it has, which is not looked up again.
        isSound = isSound && EVP_DigestInit_ex(context, nil, nil) == 1
        guard isSound else { throw ArchiveProblem("libcrypto cannot compute SHA-256") }
        return digest
    }

    func finishHex() throws(ArchiveProblem) -> String {
        let digits = Array("0123456789abcdef".utf8)
        return String(
            decoding: try finish().flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    }

    static func hex(of bytes: [UInt8]) throws(ArchiveProblem) -> String {
        let digest = SHA256()
        bytes.withUnsafeBytes { digest.update($0) }
        return try digest.finishHex()
    }
}
