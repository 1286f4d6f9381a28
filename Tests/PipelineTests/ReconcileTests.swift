import ReactionModel
import RedisStore
import Testing

@testable import Pipeline

private let stamp = Stamp(redisHistory: [1], systemIdentifier: 1, timeline: 1, epoch: 0)
private let nonce = Array("00ff0123456789ab".utf8)

private func makeType() throws -> EntityType {
    EntityType(
        typeID: 1, name: "Image", mode: .multi, phase: .native,
        kinds: [Kind(name: "Like", flag: 1), Kind(name: "Heart", flag: 4)],
        userMapKey: try KeyTemplate("u:<user>", required: "<user>"),
        entityKey: try KeyTemplate("e:<entity>", required: "<entity>"), shardCount: 10, epoch: 0)
}

private func reactor(_ version: Int64, _ user: Int64, _ flags: Int32 = 1) -> Reactor {
    Reactor(position: ReactionPosition(version: Version(rawValue: version), time: 0, userID: user), flags: flags)
}

/// Three users, one of whom has both kinds, as the agent leaves them: `users` is the number of records of the list.
private func makeLook(_ tier: EntityTier, users: Int = 3, floor: ReactionPosition? = nil) -> EntityLook {
    var look = EntityLook()
    let marker = EntityMarker(
        nonce: nonce, tier: tier, counted: CountedChunk(batch: BatchNumber(rawValue: 1), part: 0), builtAt: 1)
    look.add("_", marker.text(stamp: stamp), stamp)
    for (name, value) in ["Like": 3, "Heart": 1, "total": 4, "users": 3] {
        look.add(name, Array("\(value)".utf8), stamp)
    }
    var counts: [Int64] = Array(repeating: 0, count: 32)
    counts[0] = 3
    counts[2] = 1
    let list = EntityLook.List(list: ReactionList(nonce: nonce, floor: floor), count: users, counts: counts)
    if tier == .regular {
        look.present = [.counts, .reactions]
        look.reactions = list
    } else {
        look.present = [.counts, .total, .viral, .sample]
        look.sample = list
        look.total = "4"
        look.flag = "1"
    }
    return look
}

/// What somebody has done to the keys of an entity, and what it is then.
struct Damage: CustomTestStringConvertible, Sendable {
    var name: String
    var tier: EntityTier = .regular
    var expected: EntityCondition
    var isSuperfluous: Set<EntityLook.Part> = []
    var change: @Sendable (inout EntityLook) -> Void = { _ in }

    var testDescription: String { name }

    static let all: [Damage] = [
        Damage(name: "nothing, regular", expected: .kept(.regular)),
        Damage(name: "nothing, viral", tier: .viral, expected: .kept(.viral)),
        Damage(name: "all keys are gone", expected: .absent) { $0 = EntityLook() },
        Damage(name: "another stamp", expected: .stale) { $0.marker = nil },
        Damage(name: "a string for counts", expected: .faulty(.wrongType, "reaction_counts")) { $0.wrong = [.counts] },
        Damage(name: "two keys of another type", expected: .faulty(.wrongType, "reaction_counts, reactions")) {
            $0.wrong = [.reactions, .counts]
        },
        Damage(name: "a list without counts", expected: .faulty(.noCounts, "reactions")) {
            $0.present = [.reactions]
        },
        Damage(name: "counts without a list", expected: .faulty(.missingPart, "reactions")) { $0.present = [.counts] },
        Damage(name: "no flag and no sample", tier: .viral, expected: .faulty(.missingPart, "viral, sample")) {
            $0.present = [.counts, .total]
        },
        Damage(name: "a list of another life", expected: .faulty(.wrongNonce, "reactions")) { $0.reactions.list = nil },
        Damage(name: "half a record", expected: .faulty(.wrongNonce, "reactions")) { $0.reactions.count = nil },
        Damage(name: "a sample of another life", tier: .viral, expected: .faulty(.wrongNonce, "sample")) {
            $0.sample.list = nil
        },
        Damage(name: "a total of its own", tier: .viral, expected: .faulty(.drift, "total_reactions 5, total 4")) {
            $0.total = "5"
        },
        Damage(name: "no total", tier: .viral, expected: .faulty(.drift, "total_reactions 4, total none")) {
            $0.fields["total"] = nil
        },
        Damage(name: "another flag", tier: .viral, expected: .faulty(.drift, "viral 0")) { $0.flag = "0" },
        Damage(name: "one user too many", expected: .faulty(.drift, "users 4, in the list 3")) {
            $0.fields["users"] = "4"
        },
        Damage(name: "a record too few", expected: .faulty(.drift, "users 3, in the list 2")) {
            $0.reactions.count = 2
        },
        Damage(name: "a kind too often", expected: .faulty(.drift, "Like 4, in the list 3")) {
            $0.fields["Like"] = "4"
        },
        Damage(name: "a count that is no number", expected: .faulty(.drift, "Heart x, in the list 1")) {
            $0.fields["Heart"] = "x"
        },
        Damage(name: "a kind without a field", expected: .faulty(.drift, "Heart 0, in the list 1")) {
            $0.fields["Heart"] = nil
        },
        Damage(name: "as many records of other kinds", expected: .faulty(.drift, "Heart 1, in the list 2")) {
            $0.reactions.counts?[2] = 2
        },
        Damage(name: "other kinds in a whole sample", tier: .viral, expected: .faulty(.drift, "Heart 1, in the list 0"))
        {
            $0.sample.counts?[2] = 0
        },
        Damage(name: "a list too long to be read", expected: .kept(.regular)) { $0.reactions.counts = nil },
        Damage(name: "users are not known", tier: .viral, expected: .kept(.viral)) { $0.fields["users"] = nil },
        Damage(
            name: "a regular list with a floor", expected: .faulty(.drift, "the list of a regular entity has a floor")
        ) { $0.reactions.list?.floor = reactor(1, 1).position },
        Damage(name: "a sample with a floor tells no sums", tier: .viral, expected: .kept(.viral)) {
            $0.sample.list?.floor = reactor(1, 1).position
            $0.sample.counts?[0] = 2
            $0.sample.count = 2
        },
        Damage(
            name: "a sample of a regular entity", expected: .faulty(.leftover, "total_reactions, sample"),
            isSuperfluous: [.total, .sample]
        ) { $0.present.formUnion([.total, .sample]) },
        Damage(
            name: "a list of a viral entity", tier: .viral, expected: .faulty(.leftover, "reactions"),
            isSuperfluous: [.reactions]
        ) { $0.present.insert(.reactions) },
    ]
}

@Suite struct EntityConditionTests {
    @Test(arguments: Damage.all) func anEntityIsJudgedByItsKeys(_ damage: Damage) throws {
        var look = makeLook(damage.tier)
        damage.change(&look)
        #expect(EntityCondition(look, of: try makeType()) == damage.expected)
        switch damage.expected {
        case .faulty(.leftover, _), .kept, .stale:
            #expect(EntityCondition.superfluous(look) == damage.isSuperfluous)
        default: break
        }
    }

    @Test func whatHasNoCountsIsSuperfluousAsAWhole() {
        var look = EntityLook()
        look.present = [.reactions, .total]
        #expect(EntityCondition.superfluous(look) == [.reactions, .total])
        look.present = [.counts, .reactions]
        #expect(EntityCondition.superfluous(look) == [])
    }

    /// Every fault has one way to be repaired, and its name is that of a class in `reactions.reconcile_finding`.
    @Test(arguments: [
        (CacheFault.wrongType, CacheFault.Repair.rebuild), (.missingPart, .rebuild), (.wrongNonce, .rebuild),
        (.shrunkSample, .rebuild), (.drift, .rebuild), (.noCounts, .drop), (.leftover, .drop), (.orphan, .drop),
        (.wrongDeltas, .none),
    ])
    func aFaultIsRepairedInOneWay(_ fault: CacheFault, _ repair: CacheFault.Repair) {
        #expect(fault.repair == repair)
    }
}

@Suite struct EntityTruthTests {
    @Test(
        arguments: [
            ([1: 3, 4: 1], 3, nil), ([1: 3, 4: 1], nil, nil),
            ([1: 2, 4: 1], nil, "Like 3, ClickHouse 2; total 4, ClickHouse 3"),
            ([1: 3], nil, "Heart 1, ClickHouse 0; total 4, ClickHouse 3"), ([1: 3, 4: 1], 2, "users 3, ClickHouse 2"),
            ([:], nil, "Like 3, ClickHouse 0; Heart 1, ClickHouse 0; total 4, ClickHouse 0"),
        ] as [([Int32: Int64], Int64?, String?)])
    func countsAreThoseOfClickHouse(_ counts: [Int32: Int64], _ users: Int64?, _ expected: String?) throws {
        let truth = EntityTruth(counts: counts, users: users)
        #expect(truth.difference(from: makeLook(.viral), try makeType()) == expected)
    }

    @Test func aKindThatNobodyHasNeedNotBeThereAndOneThatIsNotKnownMayNot() throws {
        var look = makeLook(.regular)
        look.fields = ["Like": "3", "total": "3"]
        #expect(EntityTruth(counts: [1: 3], users: 3).difference(from: look, try makeType()) == nil)
        look.fields["Angry"] = "7"
        #expect(EntityTruth(counts: [1: 3]).difference(from: look, try makeType()) == "Angry 7, no kind of the type")
    }

    @Test func deltasAreTheSumOfEvents() throws {
        let type = try makeType()
        let deltas = EntityTruth(counts: [1: 3, 4: 1])
        #expect(deltas.difference(fromEvents: EntityTruth(counts: [1: 3, 4: 1], users: 3), type) == nil)
        #expect(
            deltas.difference(fromEvents: EntityTruth(counts: [1: 2]), type)
                == "Like 3 by deltas, 2 by events; Heart 1 by deltas, 0 by events")
    }
}

@Suite struct ReactorTruthTests {
    private static let five = (1...5).reversed().map { reactor($0, 10 * $0) }

    /// A list, and what is said of it beside five users; `floor`s are versions.
    struct Case: CustomTestStringConvertible, Sendable {
        var name: String
        var reactors: [Reactor] = five
        var floor: Int64?
        var truthFloor: Int64?
        var expected: String?
        var testDescription: String { name }

        static let all: [Case] = [
            Case(name: "everybody"),
            Case(name: "a sample", reactors: Array(five.prefix(3)), floor: 3),
            Case(name: "a floor with nobody at it", reactors: Array(five.prefix(2)), floor: 4),
            Case(
                name: "one is missing", reactors: [five[0], five[1], five[3], five[4]],
                expected: "user 30 with flags 0, ClickHouse 1"),
            Case(
                name: "one too many", reactors: [reactor(6, 60)] + five, expected: "user 60 with flags 1, ClickHouse 0"),
            Case(
                name: "one in another's place", reactors: [reactor(5, 51)] + five.dropFirst(),
                expected: "user 50 with flags 0, ClickHouse 1, and 1 more users"),
            Case(
                name: "other kinds", reactors: [reactor(5, 50, 4)] + five.dropFirst(),
                expected: "user 50 with flags 4, ClickHouse 1"),
            Case(
                name: "a floor too low", reactors: Array(five.prefix(3)), floor: 2,
                expected: "user 20 with flags 0, ClickHouse 1"),
            Case(
                name: "no floor any more", reactors: Array(five.prefix(3)),
                expected: "user 10 with flags 0, ClickHouse 1, and 1 more users"),
            Case(name: "a floor too high", floor: 3, expected: "user 10 below the floor"),
            Case(
                name: "out of order", reactors: [five[1], five[0]] + five.dropFirst(2),
                expected: "user 50 behind user 40, who is older"),
            Case(
                name: "twice", reactors: [five[0]] + five, expected: "user 50 behind user 50, who is older"),
            // ClickHouse was not asked so far down.
            Case(name: "a difference below what was asked for", reactors: Array(five.prefix(4)), truthFloor: 2),
            Case(
                name: "a difference above it", reactors: Array(five.prefix(3)), truthFloor: 2,
                expected: "user 20 with flags 0, ClickHouse 1"),
        ]
    }

    @Test(arguments: Case.all) func aListHasThoseWhoHaveReacted(_ test: Case) {
        func position(_ version: Int64?) -> ReactionPosition? {
            version.map { ReactionPosition(version: Version(rawValue: $0), time: 0, userID: .min) }
        }
        let told = Self.five.filter { reactor in position(test.truthFloor).map { reactor.position >= $0 } ?? true }
        let truth = ReactorTruth(reactors: told, floor: position(test.truthFloor))
        let fault = truth.fault(of: ReactionList(nonce: nonce, floor: position(test.floor), reactors: test.reactors))
        #expect(fault?.detail == test.expected)
        #expect(fault.map { $0.fault == .drift } ?? true)
    }

    /// By what building it anew would bring.
    @Test(arguments: [(499, 2_000, true), (500, 2_000, false), (20, 100, true), (50, 100, false)])
    func aSampleShrinksWhenUsersTakeItBack(_ left: Int, _ there: Int, _ isShrunk: Bool) {
        let all = (1...Int64(there)).reversed().map { reactor($0, $0) }
        let kept = Array(all.prefix(left))
        let list = ReactionList(nonce: nonce, floor: kept.last?.position, reactors: kept)
        #expect((ReactorTruth(reactors: all).fault(of: list)?.fault == .shrunkSample) == isShrunk)
    }
}
