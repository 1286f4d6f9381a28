/*
 * The outbox.
 *
 * Three rotating tables of one shape; the agent truncates one when everything in it is finished. Insert-only, so there is nothing to
 * lock but the relation. Which table is current is a hint: readers and the agent look at all three.
 *
 * A version is generation · 2^44 + sequence number. The generation belongs to one (installation, timeline) of the server: the first
 * event after a failover, a point-in-time recovery or a restore raises it by a row in reactions._generation. Nobody waits for that: until
 * one of them has committed, every writing transaction adds a row of the same number, which they all find in the same way. (A lock, or a
 * unique number, would have everybody wait for the first of them, and that may be prepared and left.)
 */
#include "outbox.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "shmem.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"
#include "xact.h"

#define VERSION_SEQUENCE_BITS 44
#define MAXIMUM_GENERATION 511
#define INSERT_ROWS 500			/* rows of one multi-insert */

enum
{
	ATTR_VERSION = 1,
	ATTR_XID,
	ATTR_USER_ID,
	ATTR_ENTITY_ID,
	ATTR_CREATED_AT,
	ATTR_WRITTEN_AT,
	ATTR_SET_MASK,
	ATTR_CLEAR_MASK,
	ATTR_TYPE_ID,
	ATTR_SCOPE,
	ATTR_DELTA_KNOWN,
	OUTBOX_COLUMNS = ATTR_DELTA_KNOWN
};

static uint64 inserted = 0;
static bool written_in_transaction = false;

/* The generation of this cluster and timeline once its row is known to be committed; -1 before. */
static int64 known_generation = -1;
static TimeLineID known_timeline = 0;
static Oid	known_relation = InvalidOid;

uint64
outbox_inserted(void)
{
	return inserted;
}

bool
outbox_written_in_transaction(void)
{
	return written_in_transaction;
}

void
outbox_transaction_ended(void)
{
	written_in_transaction = false;
}

void
outbox_rolled_back(void)
{
	/* The generation's row may have been this (sub)transaction's own. */
	known_generation = -1;
}

/* The highest generation in the newest snapshot, -1 without one; `ours` says whether it is of this cluster and timeline. */
static int64
newest_generation(Oid relation_id, TimeLineID timeline, bool *ours)
{
	Relation	relation = table_open(relation_id, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(catalog_newest_snapshot());
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	TableScanDesc scan = table_beginscan(relation, snapshot, 0, NULL);
	int64		newest = -1;

	*ours = false;
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		is_null;
		int64		generation = DatumGetInt16(slot_getattr(slot, 1, &is_null));

		if (generation < newest)
			continue;
		if (generation > newest)
			*ours = false;
		newest = generation;
		if (DatumGetInt64(slot_getattr(slot, 2, &is_null)) == (int64) catalog_system_identifier() &&
			DatumGetInt64(slot_getattr(slot, 3, &is_null)) == (int64) timeline)
			*ours = true;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
	return newest;
}

static void
insert_generation(Oid relation_id, int64 generation, TimeLineID timeline)
{
	Relation	relation = table_open(relation_id, RowExclusiveLock);
	Datum		values[5];
	bool		nulls[5] = {false};

	values[0] = Int16GetDatum((int16) generation);
	values[1] = Int64GetDatum((int64) catalog_system_identifier());
	values[2] = Int64GetDatum((int64) timeline);
	values[3] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[4] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	CatalogTupleInsert(relation, heap_form_tuple(RelationGetDescr(relation), values, nulls));
	table_close(relation, NoLock);
	CommandCounterIncrement();
}

static int64
current_generation(void)
{
	Oid			relation_id = catalog_relations()->generation;
	TimeLineID	timeline = GetWALInsertionTimeLine();
	bool		ours;
	int64		generation;

	if (known_generation >= 0 && known_timeline == timeline && known_relation == relation_id)
		return known_generation;

	generation = newest_generation(relation_id, timeline, &ours);
	if (!ours)
	{
		/*
		 * Generation 0 is left out: version 0 means "before everything". At least the timeline's number, which a point-in-time recovery to
		 * before a generation was raised does not give out again.
		 */
		generation = Max(Max(generation + 1, 1), (int64) timeline);
		if (generation > MAXIMUM_GENERATION)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("pg_reactions has used up its %d generations", MAXIMUM_GENERATION),
					 errdetail("Every failover, point-in-time recovery and restore uses one."),
					 errhint("Dump, drop and recreate the extension and mirror into a new ClickHouse database.")));
		insert_generation(relation_id, generation, timeline);
		/* Not remembered: this transaction may yet be rolled back. */
		return generation;
	}
	known_generation = generation;
	known_timeline = timeline;
	known_relation = relation_id;
	return generation;
}

int64
outbox_draw_version(void)
{
	int64		generation;
	int64		sequence;

	(void) GetTopFullTransactionId();
	generation = current_generation();
	sequence = nextval_internal(catalog_relations()->version_sequence, false);
	return generation << VERSION_SEQUENCE_BITS | sequence;
}

static void
fill_slot(TupleTableSlot *slot, const ReactionType *type, char scope, const OutboxEvent *event, TimestampTz now)
{
	Datum	   *values = slot->tts_values;

	ExecClearTuple(slot);
	memset(slot->tts_isnull, 0, OUTBOX_COLUMNS * sizeof(bool));
	values[ATTR_VERSION - 1] = Int64GetDatum(event->version);
	values[ATTR_XID - 1] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	values[ATTR_USER_ID - 1] = Int64GetDatum(event->user_id);
	values[ATTR_ENTITY_ID - 1] = Int64GetDatum(event->entity_id);
	values[ATTR_CREATED_AT - 1] = TimestampTzGetDatum(event->created_at);
	values[ATTR_WRITTEN_AT - 1] = TimestampTzGetDatum(now);
	values[ATTR_SET_MASK - 1] = Int32GetDatum(event->set_mask);
	values[ATTR_CLEAR_MASK - 1] = Int32GetDatum(event->clear_mask);
	values[ATTR_TYPE_ID - 1] = Int16GetDatum(type->type_id);
	values[ATTR_SCOPE - 1] = CharGetDatum(scope);
	values[ATTR_DELTA_KNOWN - 1] = BoolGetDatum(event->delta_known);
	ExecStoreVirtualTuple(slot);
}

void
outbox_insert(ReactionType *type, char scope, OutboxEvent *events, size_t count)
{
	Relation	relation;
	CatalogIndexState indexes;
	TupleTableSlot *slots[INSERT_ROWS];
	size_t		slot_count = Min(count, INSERT_ROWS);
	TimestampTz now = GetCurrentTimestamp();

	if (count == 0)
		return;
	for (size_t i = 0; i < count; i++)
		events[i].version = outbox_draw_version();

	relation = table_open(catalog_relations()->outbox[catalog_current_outbox()], RowExclusiveLock);
	indexes = CatalogOpenIndexes(relation);
	for (size_t i = 0; i < slot_count; i++)
		slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(relation), &TTSOpsHeapTuple);
	for (size_t first = 0; first < count; first += INSERT_ROWS)
	{
		size_t		rows = Min(count - first, INSERT_ROWS);

		CHECK_FOR_INTERRUPTS();
		for (size_t i = 0; i < rows; i++)
			fill_slot(slots[i], type, scope, &events[first + i], now);
		CatalogTuplesMultiInsertWithInfo(relation, slots, (int) rows, indexes);
	}
	for (size_t i = 0; i < slot_count; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	CatalogCloseIndexes(indexes);
	table_close(relation, NoLock);

	inserted += count;
	shmem_count(COUNTER_EVENTS_INSERTED, count);
	written_in_transaction = true;
	xact_remember(type, scope, events, count);
}

void
outbox_lock(void)
{
	const CatalogRelations *relations = catalog_relations();

	for (int i = 0; i < OUTBOX_TABLES; i++)
		LockRelationOid(relations->outbox[i], AccessShareLock);
}

void
outbox_unlock(void)
{
	const CatalogRelations *relations = catalog_relations();

	for (int i = 0; i < OUTBOX_TABLES; i++)
		UnlockRelationOid(relations->outbox[i], AccessShareLock);
}

int64
outbox_floor(Snapshot snapshot)
{
	Relation	relation = table_open(catalog_relations()->mirror, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	TableScanDesc scan = table_beginscan(relation, snapshot, 0, NULL);
	int64		floor = 0;

	if (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		is_null;

		floor = DatumGetInt64(slot_getattr(slot, 3, &is_null));
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(relation, AccessShareLock);
	return floor;
}

static bool
is_wanted(HeapTuple tuple, OutboxVisibility visibility, Snapshot snapshot)
{
	TransactionId xmin = HeapTupleHeaderGetXmin(tuple->t_data);
	bool		own = TransactionIdIsCurrentTransactionId(xmin);

	switch (visibility)
	{
		case OUTBOX_COMMITTED_IN:
			return !own && !XidInMVCCSnapshot(xmin, snapshot);
		case OUTBOX_OWN_BEFORE:
			return own && HeapTupleHeaderGetCmin(tuple->t_data) < snapshot->curcid;
		case OUTBOX_CURRENT:
			return true;
	}
	return false;
}

typedef struct FoundRows
{
	OutboxRow  *rows;
	size_t		count;
	size_t		capacity;
} FoundRows;

static void
append_row(FoundRows *found, HeapTuple tuple, TupleDesc descriptor)
{
	bool		is_null;
	OutboxRow  *row;

	if (found->count == found->capacity)
	{
		found->capacity = found->capacity == 0 ? 16 : found->capacity * 2;
		found->rows = found->rows == NULL ? palloc_array(OutboxRow, found->capacity)
			: repalloc_huge(found->rows, found->capacity * sizeof(OutboxRow));
	}
	row = &found->rows[found->count++];
#define FIELD(attribute) heap_getattr(tuple, attribute, descriptor, &is_null)
	row->event.user_id = DatumGetInt64(FIELD(ATTR_USER_ID));
	row->event.entity_id = DatumGetInt64(FIELD(ATTR_ENTITY_ID));
	row->event.version = DatumGetInt64(FIELD(ATTR_VERSION));
	row->event.set_mask = DatumGetInt32(FIELD(ATTR_SET_MASK));
	row->event.clear_mask = DatumGetInt32(FIELD(ATTR_CLEAR_MASK));
	row->delta_known = DatumGetBool(FIELD(ATTR_DELTA_KNOWN));
	row->commit_record = TransactionIdGetCommitLSN(HeapTupleHeaderGetXmin(tuple->t_data));
#undef FIELD
}

static char
scope_of(HeapTuple tuple, TupleDesc descriptor)
{
	bool		is_null;

	return DatumGetChar(heap_getattr(tuple, ATTR_SCOPE, descriptor, &is_null));
}

/* The rows of a scope that the index finds. */
static FoundRows
scan(ReactionType *type, char scope, int64 user_id, const int64 *entity_id, OutboxVisibility visibility, Snapshot snapshot)
{
	const CatalogRelations *relations = catalog_relations();
	FoundRows	found = {NULL, 0, 0};

	for (int i = 0; i < OUTBOX_TABLES; i++)
	{
		Relation	relation = table_open(relations->outbox[i], AccessShareLock);
		ScanKeyData keys[3];
		SysScanDesc index_scan;
		HeapTuple	tuple;

		/* Two of the three usually are. */
		if (RelationGetNumberOfBlocks(relation) == 0)
		{
			table_close(relation, AccessShareLock);
			continue;
		}
		ScanKeyInit(&keys[0], ATTR_TYPE_ID, BTEqualStrategyNumber, F_INT2EQ, Int16GetDatum(type->type_id));
		ScanKeyInit(&keys[1], ATTR_USER_ID, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(user_id));
		if (entity_id != NULL)
			ScanKeyInit(&keys[2], ATTR_ENTITY_ID, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(*entity_id));
		index_scan = systable_beginscan(relation, relations->outbox_key[i], true, SnapshotSelf, entity_id != NULL ? 3 : 2, keys);
		while ((tuple = systable_getnext(index_scan)) != NULL)
			if (scope_of(tuple, RelationGetDescr(relation)) == scope && is_wanted(tuple, visibility, snapshot))
				append_row(&found, tuple, RelationGetDescr(relation));
		systable_endscan(index_scan);
		table_close(relation, AccessShareLock);
	}
	return found;
}

OutboxRow *
outbox_scan(ReactionType *type, int64 user_id, const int64 *entity_id, OutboxVisibility visibility, Snapshot snapshot,
			size_t *count)
{
	FoundRows	found = scan(type, SCOPE_REACTION, user_id, entity_id, visibility, snapshot);

	*count = found.count;
	return found.rows;
}

int64
outbox_gone(ReactionType *type, int64 user_id, int64 entity_id)
{
	const int64 none = 0;
	FoundRows	of_user = scan(type, SCOPE_USER, user_id, &none, OUTBOX_CURRENT, NULL);
	FoundRows	of_entity = scan(type, SCOPE_ENTITY, 0, &entity_id, OUTBOX_CURRENT, NULL);
	int64		newest = 0;

	for (size_t i = 0; i < of_user.count; i++)
		newest = Max(newest, of_user.rows[i].event.version);
	for (size_t i = 0; i < of_entity.count; i++)
		newest = Max(newest, of_entity.rows[i].event.version);
	return newest;
}

int
outbox_row_compare(const void *left, const void *right)
{
	int64		difference_left = ((const OutboxRow *) left)->event.version;
	int64		difference_right = ((const OutboxRow *) right)->event.version;

	return difference_left < difference_right ? -1 : difference_left > difference_right ? 1 : 0;
}

PG_FUNCTION_INFO_V1(reactions_current_generation);

Datum
reactions_current_generation(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("reactions._current_generation()");
	PG_RETURN_INT64(current_generation());
}

PG_FUNCTION_INFO_V1(reactions_draw_version);

Datum
reactions_draw_version(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("reactions._draw_version()");
	PG_RETURN_INT64(outbox_draw_version());
}
