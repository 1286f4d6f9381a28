/* Compared reads: in phase dual_read a share of reads is answered both ways. */
#ifndef PG_REACTIONS_COMPARE_H
#define PG_REACTIONS_COMPARE_H

#include "catalog.h"

/*
 * For a share of the calls (reactions.compare_share): reads the same by way of Redis and notes in Redis what came of it. The caller
 * has answered already; nothing that fails here is raised, but a cancel is.
 */
extern void compare_read(ReactionType *type, int64 user_id, const int64 *entity_ids, size_t count, const int32 *table_flags);

#endif							/* PG_REACTIONS_COMPARE_H */
