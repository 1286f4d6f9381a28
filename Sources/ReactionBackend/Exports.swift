// swift-format-ignore-file: AlwaysUseLowerCamelCase

import CReactionsBoundary
import ReactionModel

// The functions of the header, under the names they have there. Each does no more than hand over.

// MARK: Session

@c @implementation
func rx_configure(_ settings: UnsafePointer<rx_settings>?) {
    entry { session in
        guard let settings = settings?.pointee else { return }
        session.configure(Settings(settings))
    }
}

@c @implementation
func rx_warm_up() {
    entry { _ in WarmUp.run() }
}

@c @implementation
func rx_disconnect() {
    entry { session in session.disconnect() }
}

@c @implementation
func rx_take_counters(_ counters: UnsafeMutablePointer<rx_counters>?) {
    entry { session in counters?.pointee = session.tally.take() }
}

// MARK: Every exchange

@c @implementation
func rx_step(_ exchange: OpaquePointer?, _ ready: Int32) -> rx_wait {
    // What ended the wait is of no interest: the sockets and the clock are looked at in any case.
    entry { _ in borrow(exchange, as: Exchange.self)?.step() ?? rx_wait(RX_FAILED) }
}

@c @implementation
func rx_failure(_ exchange: OpaquePointer?, _ error: UnsafeMutablePointer<rx_error>?) {
    entry { _ in
        guard let error else { return }
        let failure = borrow(exchange, as: Exchange.self)?.failure
        (failure ?? .brokenContract("The exchange has not failed.")).write(to: &error.pointee)
    }
}

@c @implementation
func rx_end(_ exchange: OpaquePointer?) {
    entry { _ in
        guard let exchange else { return }
        let owned = Unmanaged<Exchange>.fromOpaque(UnsafeRawPointer(exchange))
        owned.takeUnretainedValue().end()
        owned.release()
    }
}

// MARK: Reading a user's flags

@c @implementation
func rx_read_begin(_ request: UnsafePointer<rx_read_request>?) -> OpaquePointer? {
    lend { session throws(Failure) in
        guard let request = request?.pointee else { throw .brokenContract("There is no request.") }
        return try ReadExchange(session, request)
    }
}

@c @implementation
func rx_wanted_truth(_ exchange: OpaquePointer?, _ wanted: UnsafeMutablePointer<rx_truth_wanted>?) {
    entry { _ in wanted?.pointee = borrow(exchange, as: TruthExchange.self)?.wanted ?? rx_truth_wanted() }
}

@c @implementation
func rx_give_truth(_ exchange: OpaquePointer?, _ truth: UnsafePointer<rx_truth>?) {
    entry { _ in
        guard let truth = truth?.pointee else { return }
        borrow(exchange, as: TruthExchange.self)?.give(truth)
    }
}

@c @implementation
func rx_read_answer(_ exchange: OpaquePointer?, _ result: UnsafeMutablePointer<rx_read_result>?) {
    entry { _ in result?.pointee = borrow(exchange, as: TruthExchange.self)?.result ?? rx_read_result() }
}

@c @implementation
func rx_copy_answer(
    _ exchange: OpaquePointer?, _ entityIDs: UnsafeMutablePointer<Int64>?, _ flags: UnsafeMutablePointer<Int32>?
) {
    entry { _ in borrow(exchange, as: TruthExchange.self)?.copyAnswer(entityIDs, flags) }
}

@c @implementation
func rx_page_begin(
    _ type: UnsafePointer<rx_type>?, _ userID: Int64, _ mask: Int32, _ after: Int64, _ limit: Int32
) -> OpaquePointer? {
    lend { session throws(Failure) in
        try PageExchange(session, type, userID: userID, mask: mask, after: after, limit: limit)
    }
}

// MARK: Reading entities

@c @implementation
func rx_counts_begin(_ request: UnsafePointer<rx_counts_request>?) -> OpaquePointer? {
    lend { session throws(Failure) in
        guard let request = request?.pointee else { throw .brokenContract("There is no request.") }
        return try CountsExchange(session, request)
    }
}

@c @implementation
func rx_copy_counts(
    _ exchange: OpaquePointer?, _ numbers: UnsafeMutablePointer<Int64>?, _ tiers: UnsafeMutablePointer<UInt8>?
) {
    entry { _ in borrow(exchange, as: CountsExchange.self)?.copy(numbers, tiers) }
}

@c @implementation
func rx_reactors_begin(_ request: UnsafePointer<rx_reactors_request>?) -> OpaquePointer? {
    lend { session throws(Failure) in
        guard let request = request?.pointee else { throw .brokenContract("There is no request.") }
        return try ReactorsExchange(session, request)
    }
}

@c @implementation
func rx_reactors_answer(_ exchange: OpaquePointer?, _ result: UnsafeMutablePointer<rx_reactors_result>?) {
    entry { _ in result?.pointee = borrow(exchange, as: ReactorsExchange.self)?.result ?? rx_reactors_result() }
}

@c @implementation
func rx_copy_reactors(_ exchange: OpaquePointer?, _ reactors: UnsafeMutablePointer<rx_reactor>?) {
    entry { _ in borrow(exchange, as: ReactorsExchange.self)?.copy(reactors) }
}

@c @implementation
func rx_wanted_entities(
    _ exchange: OpaquePointer?, _ ids: UnsafeMutablePointer<UnsafePointer<Int64>?>?, _ count: UnsafeMutablePointer<Int>?
) {
    entry { _ in
        let wanted = borrow(exchange, as: EntityExchange.self)?.lendWanted()
        ids?.pointee = wanted?.start
        count?.pointee = wanted?.count ?? 0
    }
}

@c @implementation
func rx_give_counts(_ exchange: OpaquePointer?, _ numbers: UnsafePointer<Int64>?, _ count: Int) {
    entry { _ in
        guard let counts = borrow(exchange, as: CountsExchange.self) else { return }
        counts.learn(UnsafeBufferPointer(start: numbers, count: numbers == nil ? 0 : max(count, 0)))
        counts.give(.answer)
    }
}

@c @implementation
func rx_give_batch(_ exchange: OpaquePointer?, _ batch: Int64) {
    entry { _ in borrow(exchange, as: EntityExchange.self)?.give(.clickHouse(BatchNumber(rawValue: batch))) }
}

@c @implementation
func rx_entity_status_begin(_ type: UnsafePointer<rx_type>?, _ entityID: Int64) -> OpaquePointer? {
    lend { session throws(Failure) in try EntityStatusExchange(session, type, entityID: entityID) }
}

@c @implementation
func rx_entity_status_answer(_ exchange: OpaquePointer?, _ status: UnsafeMutablePointer<rx_entity_status>?) {
    entry { _ in
        status?.pointee = borrow(exchange, as: EntityStatusExchange.self)?.status ?? rx_entity_status()
    }
}

// MARK: Applying at commit

@c @implementation
func rx_open_begin() -> OpaquePointer? {
    lend { session throws(Failure) in OpenExchange(session) }
}

@c @implementation
func rx_apply_prepare(_ type: UnsafePointer<rx_type>?, _ events: UnsafePointer<rx_event>?, _ count: Int) -> Int {
    entry { session in
        let events = UnsafeBufferPointer(start: events, count: events == nil ? 0 : max(count, 0))
        return session.apply.prepare(session, type, events)
    }
}

@c @implementation
func rx_apply_step(_ ready: Int32) -> rx_wait {
    entry { session in session.apply.step(session) }
}

@c @implementation
func rx_apply_abandon() {
    entry { session in session.apply.abandon() }
}

// MARK: Operations

@c @implementation
func rx_invalidate_begin(
    _ type: UnsafePointer<rx_type>?, _ hasUser: UInt8, _ userID: Int64, _ hasEntity: UInt8, _ entityID: Int64
) -> OpaquePointer? {
    lend { session throws(Failure) in
        try CommandExchange.invalidate(
            session, type, userID: hasUser != 0 ? userID : nil, entityID: hasEntity != 0 ? entityID : nil)
    }
}

@c @implementation
func rx_compared_begin(
    _ type: UnsafePointer<rx_type>?, _ record: UnsafePointer<CChar>?, _ length: Int
) -> OpaquePointer? {
    lend { session throws(Failure) in
        let record = UnsafeRawBufferPointer(start: record, count: record == nil ? 0 : max(length, 0))
        return try CommandExchange.noteCompared(session, type, record)
    }
}

@c @implementation
func rx_compared_take_begin(_ type: UnsafePointer<rx_type>?, _ drop: Int32, _ take: Int32) -> OpaquePointer? {
    lend { session throws(Failure) in
        try CommandExchange.takeCompared(session, type, dropping: Int64(drop), taking: Int64(take))
    }
}

@c @implementation
func rx_compared_record(
    _ exchange: OpaquePointer?, _ index: Int, _ length: UnsafeMutablePointer<Int>?
) -> UnsafePointer<CChar>? {
    entry { _ in
        guard let record = borrow(exchange, as: CommandExchange.self)?.element(index, of: 1) else { return nil }
        length?.pointee = record.length
        return record.start
    }
}

@c @implementation
func rx_probe_begin() -> OpaquePointer? {
    lend { session throws(Failure) in ProbeExchange(session) }
}

@c @implementation
func rx_probe_rows(
    _ exchange: OpaquePointer?, _ rows: UnsafeMutablePointer<UnsafePointer<rx_probe_row>?>?
) -> Int {
    entry { _ in
        let result = borrow(exchange, as: ProbeExchange.self)?.result
        rows?.pointee = result?.start
        return result?.count ?? 0
    }
}

// MARK: Keys

@c @implementation
func rx_template_problem(_ text: UnsafePointer<CChar>?, _ required: UnsafePointer<CChar>?) -> UnsafePointer<CChar>? {
    entry { session in
        guard let text, let required else { return nil }
        do throws(KeyTemplate.Problem) {
            _ = try KeyTemplate(String(cString: text), required: String(cString: required))
            return nil
        } catch {
            return session.constantText(of: error)
        }
    }
}

@c @implementation
func rx_template_shape(_ text: UnsafePointer<CChar>?, _ out: UnsafeMutablePointer<CChar>?, _ size: Int) -> Int {
    entry { _ in
        guard let text = text.map({ String(cString: $0) }) else { return 0 }
        let template = (try? KeyTemplate(text, required: "<user>")) ?? (try? KeyTemplate(text, required: "<entity>"))
        let shape = template?.shape ?? []
        if let out, size > 0 {
            let copied = shape.prefix(size - 1)
            for (offset, byte) in copied.enumerated() { out[offset] = CChar(bitPattern: byte) }
            out[copied.count] = 0
        }
        return shape.count
    }
}

// MARK: Handles

/// Makes an exchange that belongs to C until `rx_end`. What cannot begin is an exchange as well, one that has failed.
private func lend(_ make: (Session) throws(Failure) -> Exchange) -> OpaquePointer? {
    entry { session in
        let exchange: Exchange
        do throws(Failure) {
            exchange = try make(session)
        } catch {
            exchange = Exchange(session)
            exchange.fail(error)
        }
        return OpaquePointer(Unmanaged.passRetained(exchange).toOpaque())
    }
}

private func borrow<Kind: Exchange>(_ exchange: OpaquePointer?, as kind: Kind.Type) -> Kind? {
    exchange.flatMap { Unmanaged<Exchange>.fromOpaque(UnsafeRawPointer($0)).takeUnretainedValue() as? Kind }
}
