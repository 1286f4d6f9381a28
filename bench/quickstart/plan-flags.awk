# Turns the answers to plan-queries.awk into lines of user, entity and flags. A sum other than 1 is shown as it is, so that it differs.
BEGIN {
    FS = OFS = "\t"
    flag["ReactionLike"] = 1
    flag["ReactionHeart"] = 2
    flag["ReactionLaugh"] = 4
    flag["ReactionCry"] = 8
}

/^user / {
    for (entity in flags) print substr($0, 6), entity, flags[entity]
    delete flags
    next
}

{ flags[$1] = $4 == 1 ? flags[$1] + flag[$2] : "sum " $4 " of " $2 }
