/* The attached table in the phases stop_writes and archived. */
#ifndef PG_REACTIONS_FROZEN_H
#define PG_REACTIONS_FROZEN_H

#include "capture.h"
#include "outbox.h"

/* BEFORE a statement on a frozen table: raises unless it may go on; returns whether it is a referential action. */
extern bool frozen_begin(const ReactionType *type, const TriggerData *data);

/* AFTER it, before the events of its rows are written: raises for what only functions may change, and takes the locks of the others. */
extern void frozen_end(const ReactionType *type, const TriggerData *data, bool is_referential, const OutboxEvent *events,
					   size_t count);

#endif							/* PG_REACTIONS_FROZEN_H */
