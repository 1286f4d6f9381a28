/* Reactions that an attached table has refused when its type was rolled back. */
#ifndef PG_REACTIONS_REFUSED_H
#define PG_REACTIONS_REFUSED_H

#include "outbox.h"

/*
 * Has the agent find out what the events of such reactions change: ClickHouse has something else than the table, whose rows do not tell
 * the state before.
 */
extern void refused_mark(const ReactionType *type, OutboxEvent *events, size_t count);

#endif
