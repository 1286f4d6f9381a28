# Writes, for every user, the query of the original plan as a curl configuration; "user N" follows each answer. Reads lines of a
# user and a list of entities; variable url.
BEGIN { FS = "\t" }

{
    if (NR > 1) print "next"
    print "url = \"" url "\""
    print "silent\nshow-error\nfail-with-body"
    printf "data-binary = \"SELECT entityId AS imageId, metricType, MAX(createdAt) AS latestAction, SUM(metricValue) AS totalValue " \
        "FROM entityMetricEvents WHERE entityType = 'Image' AND userId = %d AND entityId IN (%s) " \
        "AND metricType IN ('ReactionLike','ReactionHeart','ReactionLaugh','ReactionCry') " \
        "GROUP BY entityId, metricType HAVING totalValue > 0\"\n", $1, $2
    printf "write-out = \"user %d\\n\"\n", $1
}
