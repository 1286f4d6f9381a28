-- The rules of the user map (docs/internals.md), put before each script: pure functions of texts and numbers. A line
-- with a comment "rule" at its end is one that the property test takes away to prove that it is needed.

local band = bit.band

-- Most values handed to one command: below Lua's limit of 8,000 for unpack, and even, so that pairs stay together.
local CHUNK = 4000

local MARKER = '_'

-- The marker of a map that was made under `stamp`, or nil.
local function parse_marker(text, stamp)
    local owner, nonce, floor, state, filled, touched, lease =
        string.match(text or '', '^(%x+):(%x+):(%d+):([ncp]):(%d+):(%d+):(%d+)$')
    if owner ~= stamp then return nil end  -- rule: stamp
    if not nonce then return nil end
    return {
        stamp = owner, nonce = nonce, floor = tonumber(floor), state = state,
        filled = tonumber(filled), touched = tonumber(touched), lease = tonumber(lease),
    }
end

local function format_marker(marker)
    return string.format('%s:%s:%.0f:%s:%.0f:%.0f:%.0f', marker.stamp, marker.nonce, marker.floor, marker.state,
        marker.filled, marker.touched, marker.lease)
end

-- A field is its flags, whether the flags of the kinds without a mark are known, and the marks: mask, version, mask,
-- version and so on, with masks that do not overlap. An absent field is none in a complete map and unknown in any
-- other; one that cannot be parsed is unknown.
local function parse_field(text, state)
    local unknown, flags, marks = string.match(text or '', '^(%??)(%d+)([%d:]*)$')
    local field = { flags = tonumber(flags) or 0, known = unknown == '' }
    for mask, version in string.gmatch(marks or '', ':(%d+):(%d+)') do
        field[#field + 1] = tonumber(mask)
        field[#field + 1] = tonumber(version)
    end
    if not text then field.known = true end
    if not text and state ~= 'c' then field.known = false end  -- rule: absent is unknown
    return field
end

-- Marks at or below the floor say no more about a known field. A `?` field keeps them for a fill that is on its way.
local function format_field(field, floor)
    local text = string.format(field.known and '%.0f' or '?%.0f', field.flags)
    for i = 1, #field, 2 do
        local is_news = field[i + 1] > floor
        if not field.known then is_news = true end  -- rule: marks of the unknown
        if is_news then text = string.format('%s:%.0f:%.0f', text, field[i], field[i + 1]) end
    end
    return text
end

-- Gives the kinds of `mask` the values they have in `flags`, as of `version`. A kind with a newer mark keeps its value.
local function assign(field, mask, flags, version)
    local kept = {}
    for i = 1, #field, 2 do
        local common = band(field[i], mask)
        local rest = field[i]
        if field[i + 1] <= version then rest = rest - common end
        if field[i + 1] > version then mask = mask - common end  -- rule: newer wins
        if rest > 0 then
            kept[#kept + 1] = rest
            kept[#kept + 1] = field[i + 1]
        end
    end
    if mask == 0 then return end
    kept[#kept + 1] = mask
    kept[#kept + 1] = version
    for i = 1, math.max(#field, #kept) do field[i] = kept[i] end
    field.flags = field.flags - band(field.flags, mask) + band(flags, mask)
end

-- One event. What is at or below the floor is in the field or was offered to it already. A bit in both masks ends set.
local function apply(field, set, clear, version, floor)
    if version <= floor then return end  -- rule: floor of an apply
    assign(field, set + clear - band(set, clear), set, version)
end

-- The field after a fill: the side that is known as of the higher floor, under the other side's marks above that floor.
local function merge(old, old_floor, new, new_floor)
    local base, other, floor = new, old, new_floor
    local is_older = old.known and old_floor > new_floor
    if is_older then base, other, floor = old, new, old_floor end  -- rule: older fill
    for i = 1, #other, 2 do
        local version = other[i + 1]
        if version <= floor then version = nil end  -- rule: floor of a fill
        if version then assign(base, other[i], other.flags, version) end
    end
    return base
end
