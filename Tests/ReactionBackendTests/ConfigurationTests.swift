import CReactionsBoundary
import RedisStore
import Testing

@testable import ReactionBackend

@Suite struct ConfigurationTests {
    @Test func redisURLs() throws {
        #expect(try RedisEndpoint("redis://cache") == RedisEndpoint("redis://cache:6379/0"))
        #expect(try RedisEndpoint("redis://[::1]:7000/3").way == .servers([.tcp(host: "::1", port: 7000)]))
        #expect(try RedisEndpoint("redis://[::1]:7000/3").database == 3)
        #expect(
            try RedisEndpoint("unix:///run/redis.sock?db=2").way == .servers([.unixSocket(path: "/run/redis.sock")]))
        #expect(try RedisEndpoint("unix:///run/redis.sock?db=2").database == 2)
        #expect(
            try RedisEndpoint("redis://a:7000,[::1],b").way
                == .servers([
                    .tcp(host: "a", port: 7000), .tcp(host: "::1", port: 6379), .tcp(host: "b", port: 6379),
                ]))
        let sentinels = try RedisEndpoint("redis-sentinel://a,b:7/mymaster?db=2")
        #expect(
            sentinels.way
                == .sentinels([.tcp(host: "a", port: 26379), .tcp(host: "b", port: 7)], master: "mymaster"))
        #expect(sentinels.database == 2)
    }

    @Test(arguments: [
        "", "cache:6379", "rediss://cache", "redis://", "redis://:6379", "redis://user:secret@cache", "redis://cache:0",
        "redis://cache:70000", "redis://cache/x", "redis://cache/-1", "redis://[::1", "unix://run/redis.sock",
        "unix:///",
        "unix:///a?timeout=1", "redis://a b", "unix:///" + String(repeating: "x", count: 200),
        "redis://a,", "redis://a,:7", "redis://a,u:p@b", "redis://a?db=1", "redis-sentinel://a", "redis-sentinel://a/",
        "redis-sentinel:///m", "redis-sentinel://a/m/n", "redis-sentinel://a/m?db=x", "redis-sentinel://a/m?x=1",
    ])
    func badRedisURLsAreRefusedWithAHint(url: String) throws {
        let failure = try #require(throws: Failure.self) { try RedisEndpoint(setting: url) }
        #expect(failure.code == RX_ERROR_NOT_CONFIGURED)
        #expect(!failure.hint.isEmpty)
        #expect(!failure.detail.contains("secret"))
    }

    @Test func clickHouseURLs() throws {
        #expect(try ClickHouseEndpoint("http://warehouse").base == "http://warehouse:8123/")
        #expect(try ClickHouseEndpoint("https://warehouse/ch/").base == "https://warehouse:8443/ch/")
        #expect(try ClickHouseEndpoint("http://[::1]:9000").base == "http://[::1]:9000/")
        for url in ["", "warehouse", "ftp://warehouse", "http://u:p@warehouse", "http://", "http://warehouse?x=1"] {
            #expect(throws: Failure.self) { try ClickHouseEndpoint(url) }
        }
    }

    @Test func errorsAreCutAtWholeCharacters() {
        var error = rx_error()
        Failure(
            code: RX_ERROR_INTERNAL, message: String(repeating: "é", count: 200), detail: "short",
            hint: String(repeating: "x", count: 300)
        ).write(to: &error)
        func text(_ field: some Any) -> String {
            withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        }
        #expect(text(error.message) == String(repeating: "é", count: 127))
        #expect(text(error.detail) == "short")
        #expect(text(error.hint) == String(repeating: "x", count: 255))
        #expect(error.code == 10)
    }
}
