import CReactionsBoundary
import ReactionModel
import RedisStore

/// Does once, without a server, what a backend's first read does.
///
/// Swift's runtime looks types up by name when they are first used and keeps what it finds. In a server that preloads the library the
/// backends inherit it. What goes wrong here goes wrong again where somebody is told.
enum WarmUp {
    static func run() {
        let session = Session()
        "unix:///nonexistent?db=1".withCString { url in
            var settings = rx_settings()
            settings.redis_url = url
            // Once to make and once to compare.
            session.configure(Settings(settings))
            session.configure(Settings(settings))
        }
        "warm".withCString { name in
            "<user>".withCString { user in
                "<entity>".withCString { entity in
                    var type = rx_type()
                    type.name = name
                    type.user_map_template = user
                    type.entity_template = entity
                    withUnsafePointer(to: rx_kind(name: name, flag: 1)) { kind in
                        type.kinds = kind
                        type.kind_count = 1
                        withUnsafePointer(to: type) { read(session, $0) }
                    }
                }
            }
        }
        talk(session)
    }

    /// Fails when it connects.
    private static func read(_ session: Session, _ type: UnsafePointer<rx_type>) {
        var request = rx_read_request()
        request.type = type
        request.truth = Int32(bitPattern: RX_TRUTH_TABLE.rawValue)
        request.whole_map = 1
        guard let exchange = try? ReadExchange(session, request) else { return }
        _ = exchange.step()
        exchange.answer(flags: [0], isComplete: true)
        exchange.end()
    }

    /// What would be sent, and an answer such as Redis gives.
    private static func talk(_ session: Session) {
        var commands = RedisHandshake.commands(RedisLogin(password: "warm"))
        commands.append(commandsOf: RedisHandshake.loadingCommands())
        let stamp = Stamp(redisHistory: [], systemIdentifier: 0, timeline: 0, epoch: 0)
        commands.appendReadFields([1], of: [])
        let marker = stamp.digits + ":0000000000000000:0:c:0:0:0".utf8
        var answer = CommandBuffer()
        answer.begin("_", arguments: 1)
        answer.append(marker)
        let reader = ReplyReader()
        answer.bytes.withUnsafeBytes { bytes in _ = try? reader.feed(bytes) }
        _ = RedisIdentity(info: Array("run_id:0\r\nrole:master\r\nmaster_replid:0\r\n".utf8)[...])
        _ = try? UserMapReading(wholeMapOf: reader.replies, at: 0, stamp: stamp)
        _ = try? UserMapReading(fields: 1, of: reader.replies, at: 0, stamp: stamp)
    }
}
