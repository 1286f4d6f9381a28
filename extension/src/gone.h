/* Users and entities that are gone: their locks, and the triggers of the tables that held them. */
#ifndef PG_REACTIONS_GONE_H
#define PG_REACTIONS_GONE_H

#include "catalog.h"
#include "outbox.h"

/* Taken by a writer without a table: until it ends, neither its user nor its entity goes. */
extern void gone_lock_out(const ReactionType *type, int64 user_id, int64 entity_id);

/*
 * Taken by whoever makes all of some users (scope SCOPE_USER) or entities (SCOPE_ENTITY) go, before versions are drawn: waits for writers
 * of them, and keeps new ones out. The ids are in ascending order, each once.
 */
extern void gone_lock(const ReactionType *type, char scope, const int64 *ids, size_t count);

/* Sorts ids and drops repeated ones; returns how many are left. */
extern size_t gone_sort(int64 *ids, size_t count);

extern void gone_init(void);

#endif							/* PG_REACTIONS_GONE_H */
