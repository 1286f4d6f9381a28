/*
 * The one place for differences between PostgreSQL versions. Tested with 15; 16 and 17 differ only in what stands here.
 */
#ifndef PG_REACTIONS_COMPAT_H
#define PG_REACTIONS_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "pg_reactions needs PostgreSQL 15 or newer"
#endif

/* 16 moved the variable-length macros out of postgres.h */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 17 added "or a stronger mode" */
#if PG_VERSION_NUM >= 170000
#define LOCK_HELD_BY_ME(tag, mode) LockHeldByMe(tag, mode, false)
#else
#define LOCK_HELD_BY_ME(tag, mode) LockHeldByMe(tag, mode)
#endif

/* 17 replaced the memory context by a resource owner; either way the set lives until it is freed */
#if PG_VERSION_NUM >= 170000
#define CREATE_LASTING_WAIT_EVENT_SET(size) CreateWaitEventSet(NULL, size)
#else
#define CREATE_LASTING_WAIT_EVENT_SET(size) CreateWaitEventSet(TopMemoryContext, size)
#endif

#endif							/* PG_REACTIONS_COMPAT_H */
