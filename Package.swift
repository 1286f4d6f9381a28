// swift-tools-version: 6.2
//
// Two products. `ReactionBackend` is the static library that PGXS links into pg_reactions.so: it runs inside a PostgreSQL
// backend and therefore imports neither Foundation nor Dispatch nor _Concurrency. `reactiond` is the agent.
import PackageDescription

/// Settings every target shares.
let shared: [SwiftSetting] = [
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),  // SE-0335: the cost of an existential is spelled out
    .enableUpcomingFeature("InternalImportsByDefault"),  // SE-0409: what leaks into an interface is spelled out
    .enableUpcomingFeature("MemberImportVisibility"),  // SE-0444: a member is visible only where its module is imported
]

/// Settings of what runs in a backend: no implicit import of _Concurrency or of regular expressions, so neither is linked.
let backend: [SwiftSetting] =
    shared + [
        .unsafeFlags([
            "-Xfrontend", "-disable-implicit-concurrency-module-import",
            "-Xfrontend", "-disable-implicit-string-processing-module-import",
            // A backend has one thread, and a check that fails would trap, which restarts the whole server.
            "-enforce-exclusivity=unchecked",
        ])
    ]

/// Settings of the agent and the tests.
let agent: [SwiftSetting] =
    shared + [
        // SE-0461: async functions run on their caller's executor
        .enableUpcomingFeature("NonisolatedNonsendingByDefault")
    ]

let package = Package(
    name: "pg_reactions",
    products: [
        .library(name: "ReactionBackend", type: .static, targets: ["ReactionBackend"]),
        .executable(name: "reactiond", targets: ["reactiond"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-configuration", from: "1.4.0", traits: [.defaults, "YAML"]),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/swhitty/FlyingFox", from: "0.27.0"),
    ],
    targets: [
        // C
        .target(name: "CReactionsBoundary"),
        .systemLibrary(name: "CHiredis", pkgConfig: "hiredis", providers: [.apt(["libhiredis-dev"])]),
        .systemLibrary(name: "CLibPQ", pkgConfig: "libpq", providers: [.apt(["libpq-dev"])]),
        .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
        // libpq and libcurl bring it along.
        .systemLibrary(name: "COpenSSL", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CMalloc"),
        .target(name: "CCurl", linkerSettings: [.linkedLibrary("curl")]),

        // Backend and agent
        .target(name: "ReactionModel", swiftSettings: backend),
        .target(
            name: "RedisStore", dependencies: ["ReactionModel"], resources: [.embedInCode("Scripts")],
            swiftSettings: backend),
        .target(name: "ClickHouseStore", dependencies: ["ReactionModel"], swiftSettings: backend),

        // Backend only
        .target(
            name: "ReactionBackend",
            dependencies: [
                "CReactionsBoundary", "CHiredis", "CCurl", "ReactionModel", "RedisStore", "ClickHouseStore",
            ],
            swiftSettings: backend),

        // Agent only
        .target(
            name: "PostgresSource", dependencies: ["CLibPQ", "ClickHouseStore", "ReactionModel", "Pipeline"],
            swiftSettings: agent),
        .target(
            name: "Pipeline", dependencies: ["ReactionModel", "RedisStore", "ClickHouseStore"], swiftSettings: agent),
        .target(
            name: "ReactionAgent",
            dependencies: [
                "Pipeline", "PostgresSource", "RedisStore", "ClickHouseStore", "ReactionModel", "CHiredis", "CCurl",
                "CMalloc", "COpenSSL", "CZlib",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
                .product(name: "Configuration", package: "swift-configuration"),
                .product(name: "FlyingFox", package: "FlyingFox"),
                .product(name: "FlyingSocks", package: "FlyingFox"),
            ], swiftSettings: agent),
        .executableTarget(
            name: "reactiond",
            dependencies: [
                "ReactionAgent", "PostgresSource", "Pipeline",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ], swiftSettings: agent),

        // Benchmarks
        .executableTarget(
            name: "reactions-bench",
            dependencies: [
                "TestSupport", "SeededRandom", "Pipeline", "RedisStore", "ReactionModel", "CHiredis", "CLibPQ",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ], path: "bench/Sources", swiftSettings: agent),

        // Tests
        .target(name: "SeededRandom", path: "Tests/SeededRandom", swiftSettings: agent),
        .target(
            name: "TestSupport", dependencies: ["CHiredis", "CLibPQ", "CCurl"], path: "Tests/TestSupport",
            swiftSettings: agent),
        .target(
            name: "AgentTestSupport",
            dependencies: ["TestSupport", "ClickHouseStore", "Pipeline", "PostgresSource", "ReactionModel"],
            path: "Tests/AgentTestSupport", swiftSettings: agent),
        .testTarget(
            name: "PipelineTests",
            dependencies: ["ClickHouseStore", "Pipeline", "ReactionModel", "RedisStore", "SeededRandom"],
            swiftSettings: agent),
        .testTarget(
            name: "PostgresSourceTests",
            dependencies: ["PostgresSource", "Pipeline", "AgentTestSupport", "TestSupport"],
            swiftSettings: agent),
        .testTarget(
            name: "ReactionAgentTests",
            dependencies: [
                "ReactionAgent", "PostgresSource", "Pipeline", "ReactionModel", "RedisStore", "AgentTestSupport",
                "SeededRandom", "TestSupport",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
            ],
            swiftSettings: agent),
        .testTarget(name: "IntegrationTests", dependencies: ["TestSupport"], swiftSettings: agent),
        .testTarget(name: "TestSupportTests", dependencies: ["TestSupport"], swiftSettings: agent),
        .testTarget(
            name: "ReactionBackendTests",
            dependencies: [
                "ReactionBackend", "CReactionsBoundary", "ClickHouseStore", "ReactionModel", "RedisStore",
                "SeededRandom",
            ], swiftSettings: agent),
        .testTarget(
            name: "BoundaryTests",
            dependencies: [
                "ReactionBackend", "CReactionsBoundary", "RedisStore", "ClickHouseStore", "ReactionModel",
                "TestSupport",
            ], swiftSettings: agent),
        .testTarget(
            name: "ClickHouseStoreTests", dependencies: ["ClickHouseStore", "ReactionModel"], swiftSettings: agent),
        .testTarget(
            name: "ConformanceTests",
            dependencies: ["ClickHouseStore", "Pipeline", "ReactionAgent", "ReactionModel", "TestSupport"],
            swiftSettings: agent),
        .systemLibrary(name: "CLua", pkgConfig: "lua5.1", providers: [.apt(["liblua5.1-0-dev"])]),
        .testTarget(name: "ReactionModelTests", dependencies: ["ReactionModel"], swiftSettings: agent),
        .testTarget(
            name: "RedisStoreTests", dependencies: ["ReactionModel", "RedisStore", "TestSupport"], swiftSettings: agent),
        .testTarget(
            name: "UserMapModelTests", dependencies: ["RedisStore", "CLua"], resources: [.embedInCode("Model")],
            swiftSettings: agent),
    ],
    swiftLanguageModes: [.v6]
)
