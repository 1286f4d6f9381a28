/*
 * Capture of an attached table by statement-level triggers.
 *
 * BEFORE each statement: the fence. AFTER it: the rows of NEW and OLD, folded per (user, entity), become events. The table's unique
 * index holds its entry until the transaction ends, and versions are drawn after it was taken; so version order is commit order per
 * kind, and capture takes no lock of its own and reads no state.
 *
 * Statements within statements. A statement fired by a row trigger of another one draws its versions first although it may have
 * changed the row last, or the other way round. Neither order of versions is right for all, so a statement that finds that events
 * were written since it began asks the table for the keys concerned. Upserts and MERGE fire the triggers of several commands; the same
 * rule covers them.
 */
#include "capture.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "legacy.h"
#include "miscadmin.h"
#include "outbox.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* ---- statements that are not captured ------------------------------------------------------------------------------------- */

/* The depth of the triggers that such a statement fires; those within its triggers are deeper. */
static int	depth_off = -1;

static int
trigger_depth(void)
{
	LOCAL_FCINFO(fcinfo, 0);

	return DatumGetInt32(pg_trigger_depth(fcinfo));
}

void
capture_off(void)
{
	depth_off = trigger_depth() + 1;
}

void
capture_on(void)
{
	depth_off = -1;
}

static bool
is_off(void)
{
	return depth_off >= 0 && trigger_depth() == depth_off;
}

/* ---- statements within statements ---------------------------------------------------------------------------------------- */

typedef struct OpenStatement
{
	int			nest_level;		/* of the subtransaction in which it began */
	uint64		inserted;		/* events of this backend when it began */
} OpenStatement;

static OpenStatement *open_statements = NULL;
static int	open_count = 0;
static int	open_capacity = 0;

static void
statement_began(void)
{
	int			level = GetCurrentTransactionNestLevel();

	/* What an error left open belongs to a subtransaction, or a transaction, that is gone. */
	while (open_count > 0 && open_statements[open_count - 1].nest_level > level)
		open_count--;
	if (open_count == open_capacity)
	{
		int			capacity = Max(open_capacity * 2, 8);

		open_statements = open_statements == NULL
			? MemoryContextAlloc(TopMemoryContext, capacity * sizeof(OpenStatement))
			: repalloc(open_statements, capacity * sizeof(OpenStatement));
		open_capacity = capacity;
	}
	open_statements[open_count++] = (OpenStatement) {level, outbox_inserted()};
}

/* Ends the innermost open statement; returns whether events were written within it. */
static bool
statement_ended(void)
{
	if (open_count == 0)
		return true;
	return open_statements[--open_count].inserted != outbox_inserted();
}

static void
transaction_ended(XactEvent event, void *argument)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		open_count = 0;
}

static void
subtransaction_ended(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *argument)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (open_count > 0 && open_statements[open_count - 1].nest_level >= GetCurrentTransactionNestLevel())
		open_count--;
}

void
capture_init(void)
{
	RegisterXactCallback(transaction_ended, NULL);
	RegisterSubXactCallback(subtransaction_ended, NULL);
}

/* ---- folding rows -------------------------------------------------------------------------------------------------------- */

typedef struct FoldKey
{
	int64		user_id;
	int64		entity_id;
} FoldKey;

typedef struct FoldEntry
{
	FoldKey		key;
	int32		added;			/* kinds in NEW */
	int32		removed;		/* kinds in OLD */
	TimestampTz created_at;
	char		status;
} FoldEntry;

#define SH_PREFIX fold
#define SH_ELEMENT_TYPE FoldEntry
#define SH_KEY_TYPE FoldKey
#define SH_KEY key
#define SH_HASH_KEY(table, key) hash_bytes((const unsigned char *) &key, sizeof(FoldKey))
#define SH_EQUAL(table, a, b) (a.user_id == b.user_id && a.entity_id == b.entity_id)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* The captured columns in the table's descriptor. */
typedef struct CapturedColumns
{
	AttrNumber	user_id;
	AttrNumber	entity_id;
	AttrNumber	kind;
	AttrNumber	created_at;		/* InvalidAttrNumber without one */
	Oid			user_type;
	Oid			entity_type;
	Oid			kind_type;
	Oid			created_type;
} CapturedColumns;

static AttrNumber
column(Relation relation, const char *name, Oid *type)
{
	AttrNumber	attribute = get_attnum(RelationGetRelid(relation), name);

	if (attribute == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of attached table \"%s\" does not exist", name, RelationGetRelationName(relation)),
				 errhint("Detach the table with reactions.detach and attach it again with its present columns.")));
	*type = TupleDescAttr(RelationGetDescr(relation), attribute - 1)->atttypid;
	return attribute;
}

static CapturedColumns
captured_columns(ReactionType *type, Relation relation)
{
	CapturedColumns columns;

	columns.user_id = column(relation, type->user_column, &columns.user_type);
	columns.entity_id = column(relation, type->entity_column, &columns.entity_type);
	columns.kind = column(relation, type->kind_column, &columns.kind_type);
	columns.created_at = InvalidAttrNumber;
	columns.created_type = InvalidOid;
	if (type->created_column != NULL)
		columns.created_at = column(relation, type->created_column, &columns.created_type);
	return columns;
}

static int64
integer_value(Datum value, Oid type)
{
	switch (type)
	{
		case INT2OID:
			return DatumGetInt16(value);
		case INT4OID:
			return DatumGetInt32(value);
		case INT8OID:
			return DatumGetInt64(value);
		default:
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("user and entity columns of an attached table must be integers")));
	}
}

/* The time of a reaction: timestamp without time zone is taken as UTC, as ORMs write it. */
static TimestampTz
created_value(TupleTableSlot *slot, const CapturedColumns *columns, TimestampTz otherwise)
{
	bool		is_null;
	Datum		value;

	if (columns->created_at == InvalidAttrNumber)
		return otherwise;
	value = slot_getattr(slot, columns->created_at, &is_null);
	if (is_null || (columns->created_type != TIMESTAMPOID && columns->created_type != TIMESTAMPTZOID))
		return otherwise;
	if (TIMESTAMP_NOT_FINITE(DatumGetTimestamp(value)))
		return otherwise;
	return DatumGetTimestamp(value);
}

typedef struct Fold
{
	ReactionType *type;
	CapturedColumns columns;
	fold_hash  *entries;
	TimestampTz now;
	uint64		skipped;
	char	   *skipped_kind;
} Fold;

static void
fold_rows(Fold *fold, Tuplestorestate *rows, TupleDesc descriptor, bool is_new)
{
	TupleTableSlot *slot;

	if (rows == NULL)
		return;
	slot = MakeSingleTupleTableSlot(descriptor, &TTSOpsMinimalTuple);
	tuplestore_rescan(rows);
	while (tuplestore_gettupleslot(rows, true, false, slot))
	{
		bool		user_null;
		bool		entity_null;
		bool		kind_null;
		bool		found;
		Datum		user = slot_getattr(slot, fold->columns.user_id, &user_null);
		Datum		entity = slot_getattr(slot, fold->columns.entity_id, &entity_null);
		Datum		kind = slot_getattr(slot, fold->columns.kind, &kind_null);
		int32		flag;
		FoldKey		key;
		FoldEntry  *entry;

		CHECK_FOR_INTERRUPTS();
		/* attach demands NOT NULL; if it was dropped since, such a row is no reaction */
		flag = user_null || entity_null || kind_null ? -1 : legacy_flag(fold->type, fold->columns.kind_type, kind);
		if (flag < 0)
		{
			if (is_new)
			{
				fold->skipped++;
				if (fold->skipped_kind == NULL && !kind_null)
				{
					Oid			output;
					bool		is_varlena;

					getTypeOutputInfo(fold->columns.kind_type, &output, &is_varlena);
					fold->skipped_kind = OidOutputFunctionCall(output, kind);
				}
			}
			continue;
		}
		key.user_id = integer_value(user, fold->columns.user_type);
		key.entity_id = integer_value(entity, fold->columns.entity_type);
		entry = fold_insert(fold->entries, key, &found);
		if (!found)
		{
			entry->added = 0;
			entry->removed = 0;
			entry->created_at = fold->now;
		}
		if (is_new)
		{
			entry->added |= flag;
			entry->created_at = created_value(slot, &fold->columns, fold->now);
		}
		else
			entry->removed |= flag;
	}
	ExecDropSingleTupleTableSlot(slot);
}

/* ---- events -------------------------------------------------------------------------------------------------------------- */

/* What the table shows of a key now, in this transaction. */
static int32
flags_in_table(ReactionType *type, const FoldKey *key)
{
	Snapshot	snapshot;
	UserFlags	found;

	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	found = legacy_read_entities(type, key->user_id, &key->entity_id, 1, snapshot);
	UnregisterSnapshot(snapshot);
	return found.count == 0 ? 0 : found.flags[0];
}

/* Fills the event of a folded key; false if nothing changed. */
static bool
make_event(Fold *fold, const FoldEntry *entry, bool nested, OutboxEvent *event)
{
	int32		both = entry->added & entry->removed;

	event->user_id = entry->key.user_id;
	event->entity_id = entry->key.entity_id;
	event->created_at = entry->created_at;
	event->delta_known = true;
	if (nested)
	{
		event->set_mask = flags_in_table(fold->type, &entry->key);
		event->clear_mask = fold->type->all_flags & ~event->set_mask;
		event->delta_known = false;
		return true;
	}
	event->set_mask = entry->added & ~both;
	event->clear_mask = entry->removed & ~both;

	/*
	 * Until the backfill is complete a row that is rewritten may move past it: it is reported although nothing changed, and the agent
	 * finds out what it means.
	 */
	if (both != 0 && !fold->type->backfilled)
	{
		event->set_mask |= both;
		event->delta_known = false;
	}
	return event->set_mask != 0 || event->clear_mask != 0;
}

static void
count_skipped(Fold *fold)
{
	Relation	relation = table_open(catalog_relations()->skipped, RowExclusiveLock);
	Datum		values[5];
	bool		nulls[5] = {false};

	values[0] = Int64GetDatum(outbox_draw_version());
	values[1] = Int16GetDatum(fold->type->type_id);
	values[2] = CStringGetTextDatum(fold->skipped_kind != NULL ? fold->skipped_kind : "");
	values[3] = Int64GetDatum(fold->skipped);
	values[4] = TimestampTzGetDatum(fold->now);
	CatalogTupleInsert(relation, heap_form_tuple(RelationGetDescr(relation), values, nulls));
	table_close(relation, NoLock);
}

static void
write_events(Fold *fold, bool nested)
{
	OutboxEvent *events;
	size_t		count = 0;
	fold_iterator iterator;
	FoldEntry  *entry;

	events = MemoryContextAllocHuge(CurrentMemoryContext, Max(fold->entries->members, 1) * sizeof(OutboxEvent));
	fold_start_iterate(fold->entries, &iterator);
	while ((entry = fold_iterate(fold->entries, &iterator)) != NULL)
		if (make_event(fold, entry, nested, &events[count]))
			count++;
	outbox_insert(fold->type, SCOPE_REACTION, events, count);
}

/* ---- triggers ------------------------------------------------------------------------------------------------------------ */

static TriggerData *
trigger_data(FunctionCallInfo fcinfo, const char *function)
{
	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_STATEMENT(((TriggerData *) fcinfo->context)->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by a statement-level trigger", function)));
	return (TriggerData *) fcinfo->context;
}

PG_FUNCTION_INFO_V1(reactions_capture_begin);

/* BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE */
Datum
reactions_capture_begin(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, "_capture_begin");

	if (is_off())
		return PointerGetDatum(NULL);
	catalog_fence();
	if (!TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		statement_began();
	return PointerGetDatum(NULL);
}

PG_FUNCTION_INFO_V1(reactions_capture_end);

/* AFTER INSERT, UPDATE or DELETE, with transition tables */
Datum
reactions_capture_end(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, "_capture_end");
	MemoryContext local;
	MemoryContext before;
	TupleDesc	descriptor = RelationGetDescr(data->tg_relation);
	Fold		fold = {0};
	bool		nested;

	if (is_off())
		return PointerGetDatum(NULL);
	nested = statement_ended();
	local = AllocSetContextCreate(CurrentMemoryContext, "pg_reactions capture", ALLOCSET_DEFAULT_SIZES);
	before = MemoryContextSwitchTo(local);
	fold.type = catalog_type_of_table(RelationGetRelid(data->tg_relation));
	fold.columns = captured_columns(fold.type, data->tg_relation);
	fold.entries = fold_create(local, 64, NULL);
	fold.now = GetCurrentTimestamp();
	fold_rows(&fold, data->tg_oldtable, descriptor, false);
	fold_rows(&fold, data->tg_newtable, descriptor, true);
	write_events(&fold, nested);
	if (fold.skipped > 0)
		count_skipped(&fold);

	MemoryContextSwitchTo(before);
	MemoryContextDelete(local);
	return PointerGetDatum(NULL);
}

PG_FUNCTION_INFO_V1(reactions_capture_truncate);

/* AFTER TRUNCATE: one event, "all gone up to this version"; the SQL trigger beside it raises the epoch */
Datum
reactions_capture_truncate(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, "_capture_truncate");
	ReactionType *type = catalog_type_of_table(RelationGetRelid(data->tg_relation));
	OutboxEvent event = {0};

	event.created_at = GetCurrentTimestamp();
	event.delta_known = true;
	outbox_insert(type, SCOPE_TYPE, &event, 1);
	return PointerGetDatum(NULL);
}
