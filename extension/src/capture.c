/*
 * Capture of an attached table by statement-level triggers.
 *
 * BEFORE each statement: the fence. AFTER it: the rows of NEW and OLD, folded per (user, entity), become events. The table's unique
 * index holds its entry until the transaction ends, and versions are drawn after it was taken; so version order is commit order per
 * kind, and capture takes no lock of its own and reads no state.
 *
 * A frozen table (phases stop_writes and archived) is changed by referential actions alone: frozen.c has the rules.
 */
#include "capture.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "frozen.h"
#include "legacy.h"
#include "miscadmin.h"
#include "outbox.h"
#include "refused.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

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
		CapturedRow row = captured_row(fold->type, &fold->columns, slot, fold->now);
		FoldEntry  *entry;
		bool		found;

		CHECK_FOR_INTERRUPTS();
		if (row.flag < 0)
		{
			if (!is_new)
				continue;
			fold->skipped++;
			if (fold->skipped_kind == NULL)
				fold->skipped_kind = captured_label(&fold->columns, &row);
			continue;
		}
		entry = fold_insert(fold->entries, (FoldKey) {row.user_id, row.entity_id}, &found);
		if (!found)
		{
			entry->added = 0;
			entry->removed = 0;
			entry->created_at = fold->now;
		}
		if (is_new)
		{
			entry->added |= row.flag;
			entry->created_at = row.created_at;
		}
		else
			entry->removed |= row.flag;
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
	bool		is_frozen = legacy_is_frozen(fold->type);

	event->user_id = entry->key.user_id;
	event->entity_id = entry->key.entity_id;
	event->created_at = entry->created_at;
	/* The rows of a frozen table tell what was done to them, not what the state before was. */
	event->delta_known = !is_frozen;
	if (nested && !is_frozen)
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
	if (both != 0 && !fold->type->backfilled && !is_frozen)
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
write_events(Fold *fold, const TriggerData *data, EndedStatement statement)
{
	OutboxEvent *events;
	size_t		count = 0;
	fold_iterator iterator;
	FoldEntry  *entry;

	events = MemoryContextAllocHuge(CurrentMemoryContext, Max(fold->entries->members, 1) * sizeof(OutboxEvent));
	fold_start_iterate(fold->entries, &iterator);
	while ((entry = fold_iterate(fold->entries, &iterator)) != NULL)
		if (make_event(fold, entry, statement.has_events_within, &events[count]))
			count++;
	if (legacy_is_frozen(fold->type))
		frozen_end(fold->type, data, statement.is_referential, events, count);
	refused_mark(fold->type, events, count);
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

/* A flip decides what becomes of a statement: one that waited for it must not go on as it had begun. */
static ReactionType *
type_behind_fence(Relation relation)
{
	ReactionType *type = catalog_type_of_table(RelationGetRelid(relation));
	bool		was_frozen = legacy_is_frozen(type);

	catalog_fence();
	type = catalog_type_of_table(RelationGetRelid(relation));
	if (legacy_is_frozen(type) != was_frozen ||
		(!legacy_is_frozen(type) && !legacy_is_truth_in(catalog_phase_seen(type))))
		catalog_refuse_other_phase(type);
	return type;
}

PG_FUNCTION_INFO_V1(reactions_capture_begin);

/* BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE */
Datum
reactions_capture_begin(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, "_capture_begin");
	ReactionType *type;
	bool		is_referential;

	if (capture_is_off())
		return PointerGetDatum(NULL);
	type = type_behind_fence(data->tg_relation);
	is_referential = legacy_is_frozen(type) && frozen_begin(type, data);
	if (!TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		statement_began(RelationGetRelid(data->tg_relation), is_referential);
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
	EndedStatement statement;

	if (capture_is_off())
		return PointerGetDatum(NULL);
	statement = statement_ended(RelationGetRelid(data->tg_relation));
	local = AllocSetContextCreate(CurrentMemoryContext, "pg_reactions capture", ALLOCSET_DEFAULT_SIZES);
	before = MemoryContextSwitchTo(local);
	fold.type = catalog_type_of_table(RelationGetRelid(data->tg_relation));
	fold.columns = captured_columns(fold.type, data->tg_relation);
	fold.entries = fold_create(local, 64, NULL);
	fold.now = GetCurrentTimestamp();
	fold_rows(&fold, data->tg_oldtable, descriptor, false);
	fold_rows(&fold, data->tg_newtable, descriptor, true);
	write_events(&fold, data, statement);
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
