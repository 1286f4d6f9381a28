/*
 * Users and entities that are gone.
 *
 * While an attached table is written, a foreign key keeps order between whoever reacts and whoever deletes the user or the entity: the
 * first has a share lock on the row that the second deletes. Where no table is written, frozen or native, the order is kept here: writers
 * share locks of their user and their entity, deleters take them exclusively before they draw the version at which all of it is gone. So
 * no event of a lower version is committed later.
 *
 * The locks are granular as in any textbook. A writer announces its share locks by an intention on the type (IS), a deleter its exclusive
 * ones (IX); a transaction with more than MOST_IDS ids locks the type instead, in S or X. So their number is bounded, however many
 * users one statement deletes, and small transactions do not meet. PostgreSQL's RowShare, RowExclusive, Share and Exclusive modes
 * conflict as IS, IX, S and X do.
 *
 *     writer: lock user and entity S, write v   |  deleter: row lock on the user, lock user X, write g, commit
 *     - writer first: the deleter waits until v is committed, then draws g > v, which clears v
 *     - deleter first: the writer waits until g is committed, then draws v > g, which stands; nobody checks any more that the user exists
 *
 * A transaction that reacts for a user, and then updates the user's row, may meet a deleter in a deadlock (the deleter has the row first
 * and the lock second), as may two that lock several ids; the detector ends one of them with 40P01.
 */
#include "gone.h"

#include "access/sysattr.h"
#include "access/xact.h"
#include "capture.h"
#include "common/hashfn.h"
#include "legacy.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "rewrite/prs2lock.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#define MOST_IDS 100			/* locked one by one in a transaction */

/* Advisory locks with objsubids of their own; 0x5258 is that of key locks. */
#define ID_LOCK_SUBID 0x5259
#define TYPE_LOCK_SUBID 0x525a

/* Ids that the transaction has locked, those of subtransactions that were rolled back included: too many only lock more coarsely. */
static int	ids_locked = 0;

/* ---- locks --------------------------------------------------------------------------------------------------------------- */

static LOCKTAG
type_tag(const ReactionType *type)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, type->type_id, TYPE_LOCK_SUBID);
	return tag;
}

static LOCKTAG
id_tag(const ReactionType *type, char scope, int64 id)
{
	LOCKTAG		tag;
	int64		key[3] = {type->type_id, scope, id};
	uint64		hash = DatumGetUInt64(hash_any_extended((const unsigned char *) key, sizeof(key), 0));

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, ID_LOCK_SUBID);
	return tag;
}

/* Returns whether the lock is new to this transaction. */
static bool
lock(LOCKTAG tag, LOCKMODE mode)
{
	return LockAcquire(&tag, mode, false, false) == LOCKACQUIRE_OK;
}

static void
lock_id(const ReactionType *type, char scope, int64 id, LOCKMODE mode)
{
	if (lock(id_tag(type, scope, id), mode))
		ids_locked++;
}

/* Locks the whole type if that is due, or was done before; else announces locks of ids. */
static bool
lock_type(const ReactionType *type, size_t ids, LOCKMODE intention, LOCKMODE whole)
{
	LOCKTAG		tag = type_tag(type);

	if (LOCK_HELD_BY_ME(&tag, whole))
		return true;
	if (ids_locked + ids > MOST_IDS)
	{
		(void) lock(tag, whole);
		return true;
	}
	(void) lock(tag, intention);
	return false;
}

void
gone_lock_out(const ReactionType *type, int64 user_id, int64 entity_id)
{
	if (lock_type(type, 2, RowShareLock, ShareLock))
		return;
	lock_id(type, SCOPE_USER, user_id, ShareLock);
	lock_id(type, SCOPE_ENTITY, entity_id, ShareLock);
}

void
gone_lock(const ReactionType *type, char scope, const int64 *ids, size_t count)
{
	if (lock_type(type, count, RowExclusiveLock, ExclusiveLock))
		return;
	for (size_t i = 0; i < count; i++)
		lock_id(type, scope, ids[i], ExclusiveLock);
}

static int
compare_ids(const void *left, const void *right)
{
	int64		a = *(const int64 *) left;
	int64		b = *(const int64 *) right;

	return a < b ? -1 : a > b ? 1 : 0;
}

size_t
gone_sort(int64 *ids, size_t count)
{
	size_t		kept = 0;

	if (count > 1)
		qsort(ids, count, sizeof(int64), compare_ids);
	for (size_t i = 0; i < count; i++)
		if (kept == 0 || ids[kept - 1] != ids[i])
			ids[kept++] = ids[i];
	return kept;
}

static void
transaction_ended(XactEvent event, void *argument)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		ids_locked = 0;
}

void
gone_init(void)
{
	RegisterXactCallback(transaction_ended, NULL);
}

/* ---- triggers of the referenced tables ----------------------------------------------------------------------------------- */

typedef struct GoneTrigger
{
	TriggerData *data;
	ReactionType *type;			/* NULL unless its table is frozen */
	char		scope;
} GoneTrigger;

/* Arguments of the triggers: number of the type, u or e. */
static GoneTrigger
gone_trigger(FunctionCallInfo fcinfo, const char *function)
{
	GoneTrigger trigger = {(TriggerData *) fcinfo->context};

	if (!CALLED_AS_TRIGGER(fcinfo) || trigger.data->tg_trigger->tgnargs != 2 ||
		(TRIGGER_FIRED_BY_UPDATE(trigger.data->tg_event) && trigger.data->tg_trigger->tgqual == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by a trigger that pg_reactions made", function)));
	catalog_fence();
	trigger.type = catalog_type_of_id(pg_strtoint16(trigger.data->tg_trigger->tgargs[0]));
	if (trigger.type != NULL && !legacy_is_frozen(trigger.type))
		trigger.type = NULL;
	trigger.scope = trigger.data->tg_trigger->tgargs[1][0];
	return trigger;
}

/* The columns that the trigger's condition compares, less FirstLowInvalidHeapAttributeNumber. */
static Bitmapset *
compared_columns(const Trigger *trigger)
{
	Bitmapset  *columns = NULL;

	pull_varattnos(stringToNode(trigger->tgqual), PRS2_OLD_VARNO, &columns);
	return columns;
}

/*
 * The keys of the table by which foreign keys reference it. A trigger on DELETE, which is per statement, has no condition and no columns,
 * and an argument would keep a name that a rename, or a number that a dump, makes wrong. The condition of the trigger on UPDATE PostgreSQL
 * keeps right.
 */
static Bitmapset *
key_columns(const GoneTrigger *trigger)
{
	const TriggerData *data = trigger->data;
	const TriggerDesc *triggers = data->tg_relation->trigdesc;
	char	  **arguments = data->tg_trigger->tgargs;
	char	   *name = psprintf("reactions_gone_%s_%s_update", arguments[0], arguments[1]);

	for (int i = 0; i < triggers->numtriggers; i++)
		if (triggers->triggers[i].tgqual != NULL && strcmp(triggers->triggers[i].tgname, name) == 0)
			return compared_columns(&triggers->triggers[i]);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("trigger \"%s\" of table \"%s\" does not exist", name, RelationGetRelationName(data->tg_relation)),
			 errdetail("It names the columns by which the reactions of entity type \"%s\" are told which rows were deleted.",
					   trigger->type->name),
			 errhint("SELECT reactions.prepare_stop_writes(%s).", quote_literal_cstr(trigger->type->name))));
}

/* The ids of the deleted rows, by any of the keys: whatever referenced one of them is gone. */
static int64 *
deleted_ids(const GoneTrigger *trigger, size_t *count)
{
	TupleDesc	row = RelationGetDescr(trigger->data->tg_relation);
	Bitmapset  *columns = key_columns(trigger);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(row, &TTSOpsMinimalTuple);
	size_t		capacity = 64;
	int64	   *ids = palloc_array(int64, capacity);

	*count = 0;
	tuplestore_rescan(trigger->data->tg_oldtable);
	while (tuplestore_gettupleslot(trigger->data->tg_oldtable, true, false, slot))
	{
		CHECK_FOR_INTERRUPTS();
		for (int column = -1; (column = bms_next_member(columns, column)) >= 0;)
		{
			AttrNumber	attribute = column + FirstLowInvalidHeapAttributeNumber;
			bool		is_null;
			Datum		value = slot_getattr(slot, attribute, &is_null);

			if (is_null)
				continue;
			if (*count == capacity)
				ids = repalloc_huge(ids, (capacity *= 2) * sizeof(int64));
			ids[(*count)++] = captured_integer(value, TupleDescAttr(row, attribute - 1)->atttypid);
		}
	}
	ExecDropSingleTupleTableSlot(slot);
	*count = gone_sort(ids, *count);
	return ids;
}

PG_FUNCTION_INFO_V1(reactions_gone);

/* AFTER DELETE of a table that the user or the entity column references, with a transition table */
Datum
reactions_gone(PG_FUNCTION_ARGS)
{
	GoneTrigger trigger = gone_trigger(fcinfo, "_gone");
	MemoryContext local;
	MemoryContext before;
	size_t		count;
	int64	   *ids;
	OutboxEvent *events;
	TimestampTz now = GetCurrentTimestamp();

	if (trigger.type == NULL)
		return PointerGetDatum(NULL);
	local = AllocSetContextCreate(CurrentMemoryContext, "pg_reactions gone", ALLOCSET_DEFAULT_SIZES);
	before = MemoryContextSwitchTo(local);
	ids = deleted_ids(&trigger, &count);
	gone_lock(trigger.type, trigger.scope, ids, count);
	events = MemoryContextAllocHuge(local, Max(count, 1) * sizeof(OutboxEvent));
	for (size_t i = 0; i < count; i++)
		events[i] = (OutboxEvent) {
			.user_id = trigger.scope == SCOPE_USER ? ids[i] : 0,
			.entity_id = trigger.scope == SCOPE_ENTITY ? ids[i] : 0,
			.delta_known = true,
			.created_at = now
		};
	outbox_insert(trigger.type, trigger.scope, events, count);
	MemoryContextSwitchTo(before);
	MemoryContextDelete(local);
	return PointerGetDatum(NULL);
}

/* The first of the keys that the UPDATE changes. */
static const char *
changed_column(const TriggerData *data)
{
	Bitmapset  *columns = compared_columns(data->tg_trigger);
	TupleDesc	row = RelationGetDescr(data->tg_relation);
	AttrNumber	attribute = InvalidAttrNumber;

	for (int column = -1; (column = bms_next_member(columns, column)) >= 0;)
	{
		Datum		old_value;
		Datum		new_value;
		bool		old_is_null;
		bool		new_is_null;

		attribute = column + FirstLowInvalidHeapAttributeNumber;
		old_value = slot_getattr(data->tg_trigslot, attribute, &old_is_null);
		new_value = slot_getattr(data->tg_newslot, attribute, &new_is_null);
		if (old_is_null != new_is_null)
			break;
		if (!old_is_null && captured_integer(old_value, TupleDescAttr(row, attribute - 1)->atttypid) !=
			captured_integer(new_value, TupleDescAttr(row, attribute - 1)->atttypid))
			break;
	}
	return get_attname(RelationGetRelid(data->tg_relation), attribute, false);
}

PG_FUNCTION_INFO_V1(reactions_refuse_gone);

/* AFTER UPDATE of the key, per row, and BEFORE TRUNCATE: what cannot be told to the reactions */
Datum
reactions_refuse_gone(PG_FUNCTION_ARGS)
{
	GoneTrigger trigger = gone_trigger(fcinfo, "_refuse_gone");
	const char *table = RelationGetRelationName(trigger.data->tg_relation);

	if (trigger.type != NULL && TRIGGER_FIRED_BY_TRUNCATE(trigger.data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot truncate table \"%s\": reactions of entity type \"%s\" refer to it", table, trigger.type->name),
				 errdetail("The reactions are no longer in a table that a foreign key keeps in step."),
				 errhint("Delete the rows, whose reactions then go with them.")));
	if (trigger.type != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot change column \"%s\" of table \"%s\": reactions of entity type \"%s\" refer to it",
						changed_column(trigger.data), table, trigger.type->name),
				 errdetail("The reactions are no longer in a table that a foreign key keeps in step."),
				 errhint("Insert a row with the new value and write its reactions with reactions.set_flags.")));
	return PointerGetDatum(NULL);
}
