/* The attached table: reading a user's reactions from it and writing them to it. */
#ifndef PG_REACTIONS_LEGACY_H
#define PG_REACTIONS_LEGACY_H

#include "catalog.h"

/* A user's flags on some entities; the arrays are palloc'd. */
typedef struct UserFlags
{
	int64	   *entity_ids;
	int32	   *flags;
	size_t		count;
	bool		overflow;		/* there were more than the limit */
} UserFlags;

/* Whether the phase reads the attached table as the truth. */
extern bool legacy_is_truth(const ReactionType *type);
extern bool legacy_is_truth_in(ReactionPhase phase);

/* Whether the phase has frozen the attached table, if there still is one. */
extern bool legacy_is_frozen(const ReactionType *type);

/* Whether the phase writes to the attached table. */
extern bool legacy_is_written(const ReactionType *type);

/* The flag of a value of the kind column; -1 if it is a kind that is skipped. Raises for an unknown kind unless they are skipped. */
extern int32 legacy_flag(ReactionType *type, Oid column_type, Datum value);

/* What the table says in `snapshot` of up to `limit` entities of the user. Rows of kinds that are skipped do not count. */
extern UserFlags legacy_read_user(ReactionType *type, int64 user_id, int limit, Snapshot snapshot);

/* ... of the given entities. */
extern UserFlags legacy_read_entities(ReactionType *type, int64 user_id, const int64 *entity_ids, size_t count,
									  Snapshot snapshot);

/* ... of up to `limit` entities above `after`, in ascending order, on which a bit of `mask` is set. */
extern UserFlags legacy_read_page(ReactionType *type, int64 user_id, int32 mask, int64 after, int limit, Snapshot snapshot);

/* Sets and clears kinds in the table, which its capture then writes to the outbox. */
extern void legacy_change(ReactionType *type, int64 user_id, int64 entity_id, int32 set_mask, int32 clear_mask);

#endif							/* PG_REACTIONS_LEGACY_H */
