import Testing

@testable import ReactionBackend

@Suite struct BreakerTests {
    @Test func opensOnlyAfterConsecutiveFailures() {
        var breaker = Breaker()
        for _ in 0..<5 {
            for _ in 1..<Breaker.failuresToOpen { #expect(breaker.failed(at: 0) == false) }
            breaker.succeeded()
        }
        for _ in 1..<Breaker.failuresToOpen { #expect(breaker.failed(at: 0) == false) }
        #expect(breaker.allowsAttempt(at: 0) == true)
        #expect(breaker.failed(at: 0) == true)
        #expect(breaker.allowsAttempt(at: Breaker.firstPause - 1) == false)
    }

    @Test func doublesItsPauseUpToALimitAndForgetsItOnSuccess() {
        var breaker = Breaker()
        var now: Int64 = 0
        for _ in 0..<Breaker.failuresToOpen { _ = breaker.failed(at: now) }
        var pause = Breaker.firstPause
        for _ in 0..<10 {
            #expect(breaker.allowsAttempt(at: now + pause - 1) == false)
            now += pause
            #expect(breaker.allowsAttempt(at: now) == true)
            #expect(breaker.state == .halfOpen(pause: pause))
            #expect(breaker.failed(at: now) == true)
            pause = min(pause * 2, Breaker.longestPause)
        }
        #expect(breaker.state == .open(until: now + Breaker.longestPause, pause: Breaker.longestPause))
        #expect(breaker.allowsAttempt(at: now + pause) == true)
        breaker.succeeded()
        #expect(breaker.state == .closed(failures: 0))
    }

    @Test func letsTheNextAttemptDecideIfAProbeWasCancelled() {
        var breaker = Breaker()
        for _ in 0..<Breaker.failuresToOpen { _ = breaker.failed(at: 0) }
        #expect(breaker.allowsAttempt(at: Breaker.firstPause) == true)
        #expect(breaker.allowsAttempt(at: Breaker.firstPause) == true)
    }
}
