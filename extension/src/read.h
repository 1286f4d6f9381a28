/* A user's flags, from wherever the phase reads them. */
#ifndef PG_REACTIONS_READ_H
#define PG_REACTIONS_READ_H

#include "legacy.h"

/*
 * The user's flags on the (distinct) entities, own uncommitted changes included. False if they cannot be known at present: `error`
 * says why, and nothing is in `flags`.
 */
extern bool read_entities(ReactionType *type, int64 user_id, const int64 *entity_ids, size_t count, int32 *flags,
						  rx_error *error);

/*
 * Everything the user has reacted to; `overflow` if that is more than the type's user_map_limit, and then nothing is returned.
 * Memory of the current context, in ascending order of entities, flags never 0.
 */
extern bool read_whole_user(ReactionType *type, int64 user_id, UserFlags *result, rx_error *error);

/*
 * The same by way of Redis, and on a miss of the truth, whatever the phase; own changes are not in it. `missed`, unless NULL: how many
 * Redis did not know. guc_configure comes first.
 */
extern bool read_through_cache(ReactionType *type, int64 user_id, const int64 *entity_ids, size_t count, int32 *flags,
							   size_t *missed, rx_error *error);

/* The same of the attached table. */
extern void read_from_table(ReactionType *type, int64 user_id, int64 entity_id, int32 *flags);

/* What Redis alone knows of one reaction; -1 if nothing. Never raises for an unreachable server. */
extern int32 read_from_redis(ReactionType *type, int64 user_id, int64 entity_id);

/* Up to `limit` entities above `after`, ascending, on which the user has one of the kinds of `mask`. */
extern bool read_page(ReactionType *type, int64 user_id, int32 mask, int64 after, int limit, UserFlags *result,
					  rx_error *error);

/* Whether the phase, and what the transaction has written, let nobody answer but the table. */
extern bool reads_table_only(const ReactionType *type);

/*
 * In which the table is read: the newest of what others have committed and, as in any statement, of one's own only what earlier
 * commands have done.
 */
extern Snapshot register_table_snapshot(void);

#endif							/* PG_REACTIONS_READ_H */
