# Turns ratings (user,item,rating,ts) into what an application would send: every third user reacts through reactions.react(), the
# others through statements on the table, and after every fifth row somebody looks at a page of the 100 newest entities. Every 50th
# reaction is taken back. Marks progress with \echo.

function kind_of(rating) {
    return rating >= 9 ? "Heart" : rating >= 7 ? "Like" : rating >= 4 ? "Laugh" : "Cry"
}

function flush_table() {
    if (inserts != "")
        printf "INSERT INTO \"ImageReaction\" (\"userId\", \"imageId\", reaction, \"createdAt\") VALUES %s ON CONFLICT DO NOTHING;\n", inserts
    printf "%s", deletes
    inserts = deletes = ""
    waiting = 0
}

function read_page(  user, ids, i) {
    user = seen[int(rand() * seen_count)]
    for (i in page) ids = ids (ids == "" ? "" : ",") page[i]
    printf "SELECT count(*) FROM reactions.flags_many(%d, '{%s}');\n", user, ids
}

BEGIN {
    FS = ","
    srand(1)
    print "\\o /dev/null"
}

NR == 1 { next }

{
    row = NR - 1
    user = $1
    entity = $2
    kind = kind_of($3)
    takes_back = row % 50 == 0
    page[row % 100] = entity
    seen[seen_count++] = user

    if (user % 3 == 0) {
        printf "SELECT reactions.react(%d, %d, '%s');\n", user, entity, kind
        if (takes_back) printf "SELECT reactions.unreact(%d, %d, '%s');\n", user, entity, kind
    } else {
        inserts = inserts (inserts == "" ? "" : ", ") sprintf("(%d, %d, '%s', to_timestamp(%d) AT TIME ZONE 'UTC')", user, entity, kind, $4)
        if (takes_back)
            deletes = deletes sprintf("DELETE FROM \"ImageReaction\" WHERE \"userId\" = %d AND \"imageId\" = %d AND reaction = '%s';\n", user, entity, kind)
        if (++waiting == 50) flush_table()
    }
    if (row % 5 == 0) read_page()
    if (row % 200 == 0) print "\\echo " row
}

END {
    flush_table()
    print "\\echo " row
}
