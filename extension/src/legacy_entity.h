/* The attached table: who has reacted to an entity, and how many. */
#ifndef PG_REACTIONS_LEGACY_ENTITY_H
#define PG_REACTIONS_LEGACY_ENTITY_H

#include "catalog.h"

/*
 * The table's counts in `snapshot`: for each entity a number per kind, in the order of the type's kinds. Rows of kinds that are skipped
 * do not count. `numbers` has room for them.
 */
extern void legacy_count_kinds(ReactionType *type, const int64 *entity_ids, size_t count, int64 *numbers, Snapshot snapshot);

/* ... for each entity the users who have any kind. */
extern void legacy_count_users(ReactionType *type, const int64 *entity_ids, size_t count, int64 *numbers, Snapshot snapshot);

typedef struct TableReactor
{
	int64		user_id;
	TimestampTz created_at;		/* of the user's newest row; DT_NOBEGIN if the table does not say */
	int32		flags;
} TableReactor;

/*
 * Up to `limit` users with one of the kinds of `mask`, descending by time and user; with `after`, below its time and user. palloc'd.
 */
extern TableReactor *legacy_read_reactors(ReactionType *type, int64 entity_id, int32 mask, const TableReactor *after, int limit,
										  Snapshot snapshot, size_t *count);

#endif							/* PG_REACTIONS_LEGACY_ENTITY_H */
