import Glibc

/// Milliseconds of the monotonic clock; for deadlines.
func monotonicMilliseconds() -> Int64 {
    milliseconds(CLOCK_MONOTONIC)
}

/// Unix seconds; to compare with what Redis's clock wrote, where an error of minutes does no harm.
func unixSeconds() -> Int64 {
    milliseconds(CLOCK_REALTIME) / 1000
}

private func milliseconds(_ clock: clockid_t) -> Int64 {
    var time = timespec()
    clock_gettime(clock, &time)
    return Int64(time.tv_sec) &* 1000 &+ Int64(time.tv_nsec) / 1_000_000
}

/// A point in time until which something may take.
struct Deadline {
    private let end: Int64

    init(after milliseconds: Int64, from now: Int64) {
        end = now &+ max(milliseconds, 0)
    }

    /// Milliseconds left, or nil once it has passed.
    func remaining(_ now: Int64) -> Int64? {
        end > now ? end &- now : nil
    }
}
