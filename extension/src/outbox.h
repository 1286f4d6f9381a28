/* The outbox: events written in the transaction of the reaction. */
#ifndef PG_REACTIONS_OUTBOX_H
#define PG_REACTIONS_OUTBOX_H

#include "catalog.h"

#include "access/xlogdefs.h"

#define SCOPE_REACTION 'r'
#define SCOPE_TYPE 't'			/* everything of the type is gone */
#define SCOPE_USER 'u'			/* everything of the user is gone; entity_id is 0 */
#define SCOPE_ENTITY 'e'		/* everything of the entity is gone; user_id is 0 */

typedef struct OutboxEvent
{
	int64		user_id;
	int64		entity_id;
	int32		set_mask;
	int32		clear_mask;
	bool		delta_known;
	TimestampTz created_at;
	int64		version;		/* drawn by outbox_insert */
} OutboxEvent;

/*
 * Draws a version per event and inserts the events into the current outbox table. To be called after the row or key locks are held:
 * that is what makes version order commit order. Remembers them for the apply at commit.
 */
extern void outbox_insert(ReactionType *type, char scope, OutboxEvent *events, size_t count);

/* Number of events that this backend has inserted; differs if and only if something was inserted in between. */
extern uint64 outbox_inserted(void);

/* Whether the present transaction (subtransactions that were rolled back included) has inserted events. */
extern bool outbox_written_in_transaction(void);
extern void outbox_transaction_ended(void);
extern void outbox_rolled_back(void);

/* Draws a version; assigns the transaction's xid first, which is what the floor relies on. */
extern int64 outbox_draw_version(void);

/* A row found by a scan. */
typedef struct OutboxRow
{
	rx_event	event;
	bool		delta_known;
	XLogRecPtr	commit_record;	/* at or after the end of it; invalid if the commit was synchronous */
} OutboxRow;

typedef enum OutboxVisibility
{
	OUTBOX_COMMITTED_IN,		/* committed and visible in the snapshot; own rows are left out */
	OUTBOX_OWN_BEFORE,			/* own transaction's rows of commands before the snapshot's */
	OUTBOX_CURRENT				/* whatever is committed by now, and own rows */
} OutboxVisibility;

/*
 * Rows of scope reaction, of a user, or of one reaction if `entity_id` is given, in no order; palloc'd array of OutboxRow, its length in `count`. Scans
 * with SnapshotSelf, so a SERIALIZABLE transaction takes no predicate locks on the outbox, and filters by the snapshot.
 */
extern OutboxRow *outbox_scan(ReactionType *type, int64 user_id, const int64 *entity_id, OutboxVisibility visibility,
							  Snapshot snapshot, size_t *count);

/*
 * The newest version at which everything of the user, or of the entity, was gone, by own events and those committed by now; 0 if no
 * event says so.
 */
extern int64 outbox_gone(ReactionType *type, int64 user_id, int64 entity_id);

/* Locks the outbox tables against truncation while floor and rows are read together. */
extern void outbox_lock(void);
extern void outbox_unlock(void);

/* The mirror's floor in the snapshot; 0 before the agent's first start. */
extern int64 outbox_floor(Snapshot snapshot);

/* For qsort: by version. */
extern int	outbox_row_compare(const void *left, const void *right);

#endif							/* PG_REACTIONS_OUTBOX_H */
