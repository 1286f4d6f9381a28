/*
 * The functions that change: react, unreact, set_flags, toggle.
 *
 * With an attached table they are statements on the table, and its capture writes the outbox. Otherwise they take the reaction's key
 * lock, look for the state before, and write an event only if something changes.
 *
 * The state before comes from the outbox first and from Redis second. The other order could miss an event that leaves the outbox in
 * between: an event leaves only after Redis was offered it, so what the outbox no longer holds, a later look into Redis shows. What
 * neither knows is left to the agent (delta unknown): a write never needs ClickHouse.
 */
#include "write.h"

#include "access/xact.h"
#include "gone.h"
#include "miscadmin.h"
#include "outbox.h"
#include "read.h"
#include "report.h"
#include "shmem.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "xact.h"

/* Flags as far as they are known: bits outside `known` say nothing. */
typedef struct PartialFlags
{
	int32		known;
	int32		flags;
	bool		were_gone;		/* before what is known: all else is none, whatever Redis still says */
} PartialFlags;

/*
 * What committed and own events in the outbox say of the reaction. The key lock is held: nothing can be added meanwhile. Events at or
 * below the floor are left out: a newer one of the same kind may have been truncated before them. The floor is read after the rows and
 * only for them; that it may have risen meanwhile leaves out more, all of which was offered to Redis before the look there.
 *
 * If the user, or the entity, was gone at a version above the floor, what is older says nothing, nor does Redis, which is told later.
 */
static PartialFlags
flags_in_outbox(ReactionType *type, int64 user_id, int64 entity_id)
{
	int64		floor = 0;
	int64		gone;
	size_t		count;
	OutboxRow  *rows;
	PartialFlags result = {0};

	outbox_lock();
	rows = outbox_scan(type, user_id, &entity_id, OUTBOX_CURRENT, NULL, &count);
	gone = outbox_gone(type, user_id, entity_id);
	if (count > 0 || gone > 0)
	{
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

		floor = outbox_floor(snapshot);
		UnregisterSnapshot(snapshot);
	}
	outbox_unlock();
	result.were_gone = gone > floor;
	floor = Max(floor, gone);
	if (count > 1)
		qsort(rows, count, sizeof(OutboxRow), outbox_row_compare);
	for (size_t i = 0; i < count; i++)
	{
		if (rows[i].event.version <= floor)
			continue;
		result.known |= rows[i].event.set_mask | rows[i].event.clear_mask;
		result.flags = (result.flags & ~rows[i].event.clear_mask) | rows[i].event.set_mask;
	}
	return result;
}

static PartialFlags
flags_before(ReactionType *type, int64 user_id, int64 entity_id, int32 wanted)
{
	PartialFlags result = flags_in_outbox(type, user_id, entity_id);

	if (!result.were_gone && (wanted & ~result.known) != 0)
	{
		int32		cached = read_from_redis(type, user_id, entity_id);

		if (cached >= 0)
		{
			result.flags |= cached & ~result.known;
			result.known = -1;
		}
	}
	return result;
}

static void
lock_key(ReactionType *type, int64 user_id, int64 entity_id)
{
	xact_lock_key(type, user_id, entity_id);
	if (!legacy_is_written(type))
		gone_lock_out(type, user_id, entity_id);
}

static void
change_outbox(ReactionType *type, int64 user_id, int64 entity_id, int32 set_mask, int32 clear_mask, TimestampTz created_at)
{
	PartialFlags before;
	OutboxEvent event;
	int32		touched = set_mask | clear_mask;

	lock_key(type, user_id, entity_id);
	before = flags_before(type, user_id, entity_id, touched);
	event.user_id = user_id;
	event.entity_id = entity_id;
	event.delta_known = (touched & ~before.known) == 0;
	event.set_mask = event.delta_known ? set_mask & ~before.flags : set_mask;
	event.clear_mask = event.delta_known ? clear_mask & before.flags & ~set_mask : clear_mask & ~set_mask;
	event.created_at = created_at;
	if (event.set_mask != 0 || event.clear_mask != 0)
		outbox_insert(type, SCOPE_REACTION, &event, 1);
}

void
write_react(ReactionType *type, int64 user_id, int64 entity_id, int32 flag, TimestampTz created_at)
{
	change_outbox(type, user_id, entity_id, flag, type->exclusive ? type->all_flags & ~flag : 0, created_at);
}

/* Takes the fence and returns the type as it is behind it. */
static ReactionType *
type_behind_fence(text *name, const char *function)
{
	ReactionType *type = catalog_type_of_argument(name);
	ReactionPhase phase = type->phase;

	PreventCommandIfReadOnly(function);
	catalog_fence();
	type = catalog_type_of_argument(name);
	/* A snapshot from before a rollback does not show the rows that were written back, and so a statement would find nothing to do. */
	if (type->phase != phase ||
		(legacy_is_written(type) && !legacy_is_truth_in(catalog_phase_seen(type))))
		catalog_refuse_other_phase(type);
	return type;
}

static void
change(ReactionType *type, int64 user_id, int64 entity_id, int32 set_mask, int32 clear_mask)
{
	if (legacy_is_written(type))
		legacy_change(type, user_id, entity_id, set_mask, clear_mask);
	else
		change_outbox(type, user_id, entity_id, set_mask, clear_mask, GetCurrentTimestamp());
}

static void
refuse_nulls(FunctionCallInfo fcinfo)
{
	for (int i = 0; i < PG_NARGS(); i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("arguments of functions that change a reaction must not be null")));
}

PG_FUNCTION_INFO_V1(reactions_react);

/* react(user_id bigint, entity_id bigint, kind text, entity_type text) returns void */
Datum
reactions_react(PG_FUNCTION_ARGS)
{
	ReactionType *type;
	int32		flag;

	refuse_nulls(fcinfo);
	type = type_behind_fence(PG_GETARG_TEXT_PP(3), "reactions.react()");
	flag = catalog_flag(type, text_to_cstring(PG_GETARG_TEXT_PP(2)));
	change(type, PG_GETARG_INT64(0), PG_GETARG_INT64(1), flag, type->exclusive ? type->all_flags & ~flag : 0);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(reactions_unreact);

/* unreact(user_id bigint, entity_id bigint, kind text, entity_type text) returns void */
Datum
reactions_unreact(PG_FUNCTION_ARGS)
{
	ReactionType *type;

	refuse_nulls(fcinfo);
	type = type_behind_fence(PG_GETARG_TEXT_PP(3), "reactions.unreact()");
	change(type, PG_GETARG_INT64(0), PG_GETARG_INT64(1), 0, catalog_flag(type, text_to_cstring(PG_GETARG_TEXT_PP(2))));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(reactions_set_flags);

/* set_flags(user_id bigint, entity_id bigint, flags integer, entity_type text) returns void */
Datum
reactions_set_flags(PG_FUNCTION_ARGS)
{
	ReactionType *type;
	int32		flags;

	refuse_nulls(fcinfo);
	type = type_behind_fence(PG_GETARG_TEXT_PP(3), "reactions.set_flags()");
	flags = PG_GETARG_INT32(2);
	if ((flags & ~type->all_flags) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("flags %d are outside the kinds of entity type \"%s\"", flags, type->name),
				 errdetail("The kinds of the type make up %d.", type->all_flags)));
	if (type->exclusive && (flags & (flags - 1)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("entity type \"%s\" takes one kind at a time", type->name),
				 errdetail("Flags %d are more than one kind.", flags)));
	change(type, PG_GETARG_INT64(0), PG_GETARG_INT64(1), flags, type->all_flags & ~flags);
	PG_RETURN_VOID();
}

/* The reaction's flags under its key lock; raises if they cannot be known. */
static int32
flags_for_toggle(ReactionType *type, int64 user_id, int64 entity_id)
{
	PartialFlags before;
	rx_error	error;
	int32		flags;

	lock_key(type, user_id, entity_id);
	if (legacy_is_written(type))
	{
		UserFlags	found;
		Snapshot	snapshot;

		/* What the statements below will see: an older row that they cannot change must not be taken for changed. */
		snapshot = RegisterSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : catalog_newest_snapshot());

		found = legacy_read_entities(type, user_id, &entity_id, 1, snapshot);
		UnregisterSnapshot(snapshot);
		return found.count == 0 ? 0 : found.flags[0];
	}
	before = flags_in_outbox(type, user_id, entity_id);
	if (before.were_gone || (type->all_flags & ~before.known) == 0)
		return before.flags;
	if (!read_entities(type, user_id, &entity_id, 1, &flags, &error))
		report_raise(&error);
	return before.flags | (flags & ~before.known);
}

PG_FUNCTION_INFO_V1(reactions_toggle);

/* toggle(user_id bigint, entity_id bigint, kind text, entity_type text) returns the flags afterwards */
Datum
reactions_toggle(PG_FUNCTION_ARGS)
{
	ReactionType *type;
	int64		user_id;
	int64		entity_id;
	int32		flag;
	int32		before;
	int32		after;

	refuse_nulls(fcinfo);
	type = type_behind_fence(PG_GETARG_TEXT_PP(3), "reactions.toggle()");
	user_id = PG_GETARG_INT64(0);
	entity_id = PG_GETARG_INT64(1);
	flag = catalog_flag(type, text_to_cstring(PG_GETARG_TEXT_PP(2)));
	before = flags_for_toggle(type, user_id, entity_id);
	after = (before & flag) != 0 ? before & ~flag : type->exclusive ? flag : before | flag;
	change(type, user_id, entity_id, after & ~before, before & ~after);
	PG_RETURN_INT32(after);
}
