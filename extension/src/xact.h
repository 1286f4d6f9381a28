/* What happens around a commit: the bell before it, the apply to Redis after it. */
#ifndef PG_REACTIONS_XACT_H
#define PG_REACTIONS_XACT_H

#include "outbox.h"

extern void xact_init(void);

/* Remembers events for the apply at commit. */
extern void xact_remember(ReactionType *type, char scope, const OutboxEvent *events, size_t count);

/*
 * Takes the transaction-level lock on a reaction's key. At most reactions.max_keys_per_transaction of them; above, 54000.
 */
extern void xact_lock_key(const ReactionType *type, int64 user_id, int64 entity_id);

#endif							/* PG_REACTIONS_XACT_H */
