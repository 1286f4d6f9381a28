import CReactionsBoundary
import Glibc
import Testing

/// Plays the C half: configures, builds requests, steps exchanges with poll(2) and answers for the truth.
///
/// The Swift half keeps one session per process, so callers are used by serialized tests only, one at a time.
final class Caller {
    struct Failure: Error, Equatable {
        var code: Int32
        var message: String
        var detail: String
        var hint: String
    }

    struct Answer: Equatable {
        var flags: [Int64: Int32]
        var isComplete: Bool
        /// How often the truth was asked, and for what: nil is the whole user.
        var wanted: [[Int64]?]
    }

    /// What the truth says: reactions of the table, events of the outbox.
    struct Truth {
        var table: [Int64: Int32] = [:]
        var outbox: [rx_event] = []
        var floor: Int64 = 10
    }

    struct Settings {
        var redis = ""
        var redisUser = ""
        var redisPassword = ""
        var sentinelUser = ""
        var sentinelPassword = ""
        var prefix = ""
        var clickHouse = ""
        var clickHouseDatabase = ""
        var clickHouseUser = ""
        var clickHousePassword = ""
        var connectTimeout: Int32 = 60_000
        var timeout: Int32 = 60_000
        var clickHouseTimeout: Int32 = 60_000
        var fillWait: Int32 = 30
        var hashThreshold: Int32 = 0
    }

    var settings: Settings { didSet { configure() } }
    var typeName = "Image"
    var epoch: Int64 = 1
    var limit: Int32 = 100
    var truth = Truth()
    /// Called before each wait.
    var whileWaiting: () -> Void = {}

    init(_ settings: Settings) {
        self.settings = settings
        configure()
        _ = takeCounters()
    }

    func configure() {
        let texts = CTexts()
        var forC = rx_settings()
        forC.redis_url = texts[settings.redis]
        forC.redis_user = texts[settings.redisUser]
        forC.redis_password = texts[settings.redisPassword]
        forC.redis_sentinel_user = texts[settings.sentinelUser]
        forC.redis_sentinel_password = texts[settings.sentinelPassword]
        forC.key_prefix = texts[settings.prefix]
        forC.clickhouse_url = texts[settings.clickHouse]
        forC.clickhouse_database = texts[settings.clickHouseDatabase]
        forC.clickhouse_user = texts[settings.clickHouseUser]
        forC.clickhouse_password = texts[settings.clickHousePassword]
        forC.redis_connect_timeout_ms = settings.connectTimeout
        forC.redis_timeout_ms = settings.timeout
        forC.clickhouse_timeout_ms = settings.clickHouseTimeout
        forC.fill_wait_ms = settings.fillWait
        forC.hgetall_threshold = settings.hashThreshold
        withExtendedLifetime(texts) { rx_configure(&forC) }
    }

    func takeCounters() -> rx_counters {
        var counters = rx_counters()
        rx_take_counters(&counters)
        return counters
    }

    // MARK: Exchanges

    func beginRead(
        user: Int64 = 1, _ ids: [Int64]?, mayFill: Bool = true, skipsRedis: Bool = false,
        truth: rx_truth_source = RX_TRUTH_TABLE
    ) -> OpaquePointer? {
        withType { type in
            (ids ?? []).withUnsafeBufferPointer { buffer in
                var request = rx_read_request()
                request.type = type
                request.user_id = user
                request.entity_ids = buffer.baseAddress
                request.entity_count = buffer.count
                request.whole_map = ids == nil ? 1 : 0
                request.may_fill = mayFill ? 1 : 0
                request.skip_redis = skipsRedis ? 1 : 0
                request.truth = Int32(bitPattern: truth.rawValue)
                return rx_read_begin(&request)
            }
        }
    }

    /// Reads ids, or with nil the whole map.
    func read(
        user: Int64 = 1, _ ids: [Int64]?, mayFill: Bool = true, skipsRedis: Bool = false,
        truth: rx_truth_source = RX_TRUTH_TABLE
    ) throws -> Answer {
        try finish(beginRead(user: user, ids, mayFill: mayFill, skipsRedis: skipsRedis, truth: truth), asked: ids)
    }

    func page(user: Int64 = 1, mask: Int32, after: Int64, limit: Int32) throws -> Answer {
        try finish(withType { rx_page_begin($0, user, mask, after, limit) })
    }

    func invalidate(user: Int64? = nil, entity: Int64? = nil) throws {
        let exchange = withType { type in
            rx_invalidate_begin(type, user == nil ? 0 : 1, user ?? 0, entity == nil ? 0 : 1, entity ?? 0)
        }
        _ = try finish(exchange)
    }

    /// Steps to the end and ends the exchange.
    ///
    /// - Parameter asked: the ids of a read by ids.
    func finish(_ exchange: OpaquePointer?, asked: [Int64]? = nil) throws -> Answer {
        defer { rx_end(exchange) }
        var wanted: [[Int64]?] = []
        while true {
            let wait = step(exchange)
            switch rx_action(UInt32(wait.action)) {
            case RX_WANT_TRUTH: wanted.append(give(exchange))
            case RX_DONE: return answer(of: exchange, asked: asked, wanted)
            default: throw failure(of: exchange)
            }
        }
    }

    /// - Parameter asked: the ids of a read by ids.
    func answer(of exchange: OpaquePointer?, asked: [Int64]?, _ wanted: [[Int64]?] = []) -> Answer {
        var result = rx_read_result()
        rx_read_answer(exchange, &result)
        var ids = [Int64](repeating: 0, count: result.count)
        var flags = [Int32](repeating: 0, count: result.count)
        if let asked {
            ids = asked
            rx_copy_answer(exchange, nil, &flags)
        } else {
            rx_copy_answer(exchange, &ids, &flags)
        }
        return Answer(
            flags: Dictionary(zip(ids, flags), uniquingKeysWith: { first, _ in first }),
            isComplete: result.complete != 0,
            wanted: wanted)
    }

    func failure(of exchange: OpaquePointer?) -> Failure {
        var error = rx_error()
        rx_failure(exchange, &error)
        func text(_ field: some Any) -> String {
            withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        }
        return Failure(
            code: error.code, message: text(error.message), detail: text(error.detail), hint: text(error.hint))
    }

    /// Waits as asked, until the exchange is done, has failed or wants the truth.
    func step(_ exchange: OpaquePointer?) -> rx_wait {
        settle(rx_step(exchange, 0)) { rx_step(exchange, $0) }
    }

    private func settle(_ first: rx_wait, _ next: (Int32) -> rx_wait) -> rx_wait {
        var wait = first
        while true {
            let events: Int32
            switch rx_action(UInt32(wait.action)) {
            case RX_WAIT_READ: events = POLLIN
            case RX_WAIT_WRITE: events = POLLOUT
            case RX_WAIT_TIMER: events = 0
            default: return wait
            }
            whileWaiting()
            var entry = pollfd(fd: wait.fd, events: Int16(events), revents: 0)
            let ready = poll(&entry, events == 0 ? 0 : 1, wait.timeout_ms)
            wait = next(Int32(bitPattern: ready > 0 ? RX_READY_SOCKET.rawValue : RX_READY_TIMEOUT.rawValue))
        }
    }

    /// Answers for the truth as it is now. Returns the ids that were wanted.
    @discardableResult
    func give(_ exchange: OpaquePointer?) -> [Int64]? {
        var wanted = rx_truth_wanted()
        rx_wanted_truth(exchange, &wanted)
        let isWholeUser = wanted.whole_user != 0
        let ids = Array(UnsafeBufferPointer(start: wanted.entity_ids, count: wanted.entity_count))
        let reactions = truth.table.filter { $0.value != 0 && (isWholeUser || ids.contains($0.key)) }.sorted {
            $0.key < $1.key
        }
        let entityIDs = reactions.map(\.key)
        let flags = reactions.map(\.value)
        entityIDs.withUnsafeBufferPointer { entityIDs in
            flags.withUnsafeBufferPointer { flags in
                truth.outbox.withUnsafeBufferPointer { outbox in
                    var given = rx_truth()
                    given.floor = truth.floor
                    given.outbox = outbox.baseAddress
                    given.outbox_count = outbox.count
                    given.overflow = isWholeUser && entityIDs.count > Int(wanted.limit) ? 1 : 0
                    given.entity_ids = entityIDs.baseAddress
                    given.flags = flags.baseAddress
                    given.count = given.overflow != 0 ? 0 : entityIDs.count
                    rx_give_truth(exchange, &given)
                }
            }
        }
        return isWholeUser ? nil : ids
    }

    // MARK: Commit

    func prepare(_ events: [rx_event]) -> Int {
        withType { rx_apply_prepare($0, events, events.count) }
    }

    /// Returns how many events were noted.
    @discardableResult
    func commit(_ events: [rx_event]) -> Int {
        let noted = prepare(events)
        _ = settle(rx_apply_step(0)) { rx_apply_step($0) }
        return noted
    }

    /// Whether nothing of the events is sent.
    func passesBy(_ events: [rx_event]) -> Bool {
        _ = takeCounters()
        commit(events)
        return takeCounters().redis_round_trips == 0
    }

    /// Connects to whom the noted events are for.
    func open() throws { _ = try finish(rx_open_begin()) }

    // MARK: Operations

    func probe() -> [String: (isOK: Bool, detail: String, hint: String)] {
        let exchange = rx_probe_begin()
        defer { rx_end(exchange) }
        #expect(step(exchange).action == Int32(bitPattern: RX_DONE.rawValue))
        var rows: UnsafePointer<rx_probe_row>?
        let count = rx_probe_rows(exchange, &rows)
        var probe: [String: (isOK: Bool, detail: String, hint: String)] = [:]
        for row in UnsafeBufferPointer(start: rows, count: count) {
            probe[String(cString: row.check)] = (row.ok != 0, String(cString: row.detail), String(cString: row.hint))
        }
        return probe
    }

    func withType<Result>(_ body: (UnsafePointer<rx_type>) -> Result) -> Result {
        let texts = CTexts()
        let kinds = ["Like", "Heart", "Laugh", "Cry"].enumerated().map {
            rx_kind(name: texts[$1], flag: 1 << Int32($0))
        }
        return kinds.withUnsafeBufferPointer { kinds in
            var type = rx_type()
            type.name = texts[typeName]
            type.user_map_template = texts["reactions:<user>"]
            type.entity_template = texts["post:<shard>:<entity>"]
            type.shard_count = 100
            type.user_map_limit = limit
            type.user_map_ttl_s = 604_800
            type.user_map_max_age_s = 2_592_000
            type.kinds = kinds.baseAddress
            type.kind_count = kinds.count
            type.system_identifier = 7_000_000_000_000_000_001
            type.timeline = 1
            type.epoch = epoch
            type.serial = UInt64(bitPattern: Int64([typeName, "\(limit)", "\(epoch)"].hashValue))
            return withExtendedLifetime(texts) { body(&type) }
        }
    }
}

/// Texts at fixed addresses, as long as it lives.
final class CTexts {
    private var pointers: [UnsafeMutablePointer<CChar>?] = []

    subscript(text: String) -> UnsafePointer<CChar>? {
        let pointer = strdup(text)
        pointers.append(pointer)
        return UnsafePointer(pointer)
    }

    deinit { pointers.forEach { free($0) } }
}

func event(_ entity: Int64, _ version: Int64, set: Int32 = 0, clear: Int32 = 0, user: Int64 = 1) -> rx_event {
    rx_event(user_id: user, entity_id: entity, version: version, set_mask: set, clear_mask: clear)
}
