import CLua
import RedisStore

/// The model of `Model/` in a Lua of its own, with the scripts as Redis gets them.
final class Model {
    /// A rule switched off: the line of a script that ends in `-- rule: <name>`, or a step of the model done wrongly.
    enum Omission: Hashable, Sendable {
        case line(String)
        case behaviour(String)
    }

    struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    private static let parts = [
        ("redis.lua", PackageResources.redis_lua), ("postgres.lua", PackageResources.postgres_lua),
        ("agent.lua", PackageResources.agent_lua), ("reader.lua", PackageResources.reader_lua),
        ("schedule.lua", PackageResources.schedule_lua),
    ]

    private let lua: OpaquePointer

    init(without omission: Omission? = nil) throws {
        guard let lua = luaL_newstate() else { throw Failure(description: "no memory for Lua") }
        self.lua = lua
        luaL_openlibs(lua)

        lua_createtable(lua, 0, 0)
        let scripts: [(String, Script)] = [("miss", .userMapMiss), ("fill", .userMapFill), ("apply", .userMapApply)]
        for (name, script) in scripts {
            lua_pushstring(lua, Self.text(of: script, without: omission))
            lua_setfield(lua, -2, name)
        }
        lua_setfield(lua, LUA_GLOBALSINDEX, "sources")

        lua_createtable(lua, 0, 0)
        switch omission {
        case .behaviour(let name), .line(let name):
            lua_pushboolean(lua, 1)
            lua_setfield(lua, -2, name)
        case nil: break
        }
        lua_setfield(lua, LUA_GLOBALSINDEX, "off")

        for (name, text) in Self.parts {
            let isLoaded = text.withUnsafeBytes { bytes in
                luaL_loadbuffer(lua, bytes.bindMemory(to: CChar.self).baseAddress, bytes.count, "=\(name)") == 0
            }
            guard isLoaded, lua_pcall(lua, 0, 0, 0) == 0 else { throw Failure(description: Self.string(lua, -1)) }
        }
    }

    deinit { lua_close(lua) }

    /// The script without its first line, which is for Redis, and without the line of the rule.
    static func text(of script: Script, without omission: Omission? = nil) -> String {
        var lines = String(decoding: script.source, as: UTF8.self).split(
            separator: "\n", omittingEmptySubsequences: false)
        lines[0] = ""
        if case .line(let rule) = omission { lines.removeAll { $0.hasSuffix("-- rule: \(rule)") } }
        return lines.joined(separator: "\n")
    }

    /// Runs schedules until one fails; what failed and under which seed, or nil.
    func firstFailure(seeds: Range<Int>) throws -> String? {
        lua_getfield(lua, LUA_GLOBALSINDEX, "search")
        lua_pushnumber(lua, Double(seeds.lowerBound))
        lua_pushnumber(lua, Double(seeds.count))
        guard lua_pcall(lua, 2, 2, 0) == 0 else { throw Failure(description: Self.string(lua, -1)) }
        defer { lua_settop(lua, -3) }
        return lua_type(lua, -2) == LUA_TNIL ? nil : "seed \(Int(lua_tonumber(lua, -2))): \(Self.string(lua, -1))"
    }

    /// How often something happened in all schedules so far.
    func count(of name: String) -> Int {
        lua_getfield(lua, LUA_GLOBALSINDEX, "counts")
        lua_getfield(lua, -1, name)
        defer { lua_settop(lua, -3) }
        return Int(lua_tonumber(lua, -1))
    }

    private static func string(_ lua: OpaquePointer, _ index: Int32) -> String {
        lua_tolstring(lua, index, nil).map { String(cString: $0) } ?? "an error without a text"
    }
}
