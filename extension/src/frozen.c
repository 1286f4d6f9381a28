/*
 * The attached table in the phases stop_writes and archived: nobody but a foreign key changes it.
 *
 * A trigger never sees rows that are not in the table, and many are not: so UPDATE, DELETE and TRUNCATE, which would find some of the
 * reactions they mean, are refused. An INSERT needs to find nothing: as configured it is refused, too, or each of its rows goes the way
 * of react.
 *
 * Statements of referential actions pass, as the deletion they are part of has been decided. They are known by SECURITY_NOFORCE_RLS in
 * the security context, which in core ri_triggers.c alone sets: not by the depth of triggers, which the application's own have as well.
 * (Our own statements set it for tables with FORCE ROW LEVEL SECURITY; those on a frozen table are _write_back's, which pass before that
 * is looked at.) What a frozen row held says little of the state before, so their events leave the delta to the agent.
 */
#include "frozen.h"

#include "gone.h"
#include "legacy.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/rls.h"
#include "utils/timestamp.h"
#include "write.h"

/* ---- refusing ------------------------------------------------------------------------------------------------------------ */

typedef struct Refusal
{
	const char *verb;
	const char *hint;			/* with the type's name as the argument */
} Refusal;

static Refusal
refusal_of(TriggerEvent event)
{
	if (TRIGGER_FIRED_BY_INSERT(event))
		return (Refusal) {
			"insert into",
			"Call reactions.react(user_id, entity_id, kind, %1$s), or have INSERTs do so: "
				"SELECT reactions.configure(%1$s, direct_inserts => 'redirect')."
		};
	if (TRIGGER_FIRED_BY_UPDATE(event))
		return (Refusal) {"update", "Call reactions.set_flags(user_id, entity_id, flags, %1$s)."};
	if (TRIGGER_FIRED_BY_DELETE(event))
		return (Refusal) {"delete from", "Call reactions.unreact(user_id, entity_id, kind, %1$s)."};
	return (Refusal) {"truncate", "Call reactions.set_flags(user_id, entity_id, 0, %1$s) for each reaction."};
}

static const char *
phase_name(const ReactionType *type)
{
	return type->phase == PHASE_ARCHIVED ? "archived" : "stop_writes";
}

static void
refuse(const ReactionType *type, const TriggerData *data)
{
	Refusal		refusal = refusal_of(data->tg_event);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s table \"%s\": the reactions of entity type \"%s\" are no longer written to it", refusal.verb,
					RelationGetRelationName(data->tg_relation), type->name),
			 errdetail("The entity type is in phase %s.", phase_name(type)),
			 errhint(refusal.hint, quote_literal_cstr(type->name))));
}

bool
frozen_begin(const ReactionType *type, const TriggerData *data)
{
	if (InNoForceRLSOperation() && (TRIGGER_FIRED_BY_DELETE(data->tg_event) || TRIGGER_FIRED_BY_UPDATE(data->tg_event)))
		return true;
	if (!TRIGGER_FIRED_BY_INSERT(data->tg_event) || !type->redirects_inserts)
		refuse(type, data);
	/* Its policies are asked after the triggers, of rows that are not there any more. */
	if (check_enable_rls(RelationGetRelid(data->tg_relation), InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot insert into table \"%s\": its row security policies do not reach the reactions of entity type \"%s\"",
						RelationGetRelationName(data->tg_relation), type->name),
				 errhint("Call reactions.react.")));
	return false;
}

/* ---- referential actions ------------------------------------------------------------------------------------------------- */

/*
 * Order between the action and those who react to the same: every writer shares the locks of its user and its entity, so it is enough
 * to lock either. One user's reactions are on many entities, and one entity's are of many users: the fewer are locked.
 */
static void
lock_either(const ReactionType *type, const OutboxEvent *events, size_t count)
{
	int64	   *users = MemoryContextAllocHuge(CurrentMemoryContext, count * sizeof(int64));
	int64	   *entities = MemoryContextAllocHuge(CurrentMemoryContext, count * sizeof(int64));
	size_t		user_count;
	size_t		entity_count;

	for (size_t i = 0; i < count; i++)
	{
		users[i] = events[i].user_id;
		entities[i] = events[i].entity_id;
	}
	user_count = gone_sort(users, count);
	entity_count = gone_sort(entities, count);
	if (user_count <= entity_count)
		gone_lock(type, SCOPE_USER, users, user_count);
	else
		gone_lock(type, SCOPE_ENTITY, entities, entity_count);
}

void
frozen_end(const ReactionType *type, const TriggerData *data, bool is_referential, const OutboxEvent *events, size_t count)
{
	if (count == 0)
		return;
	for (size_t i = 0; i < count; i++)
	{
		/* A key that is cascaded would take along what the frozen rows say, and leave behind what came later. */
		if (!is_referential || events[i].set_mask != 0)
			refuse(type, data);
	}
	lock_either(type, events, count);
}

/* ---- redirecting --------------------------------------------------------------------------------------------------------- */

static void
redirect_row(ReactionType *type, const TriggerData *data)
{
	CapturedColumns columns = captured_columns(type, data->tg_relation);
	CapturedRow row = captured_row(type, &columns, data->tg_trigslot, GetCurrentTimestamp());

	if (row.has_null)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("cannot insert into table \"%s\": a reaction has a user, an entity and a kind",
						RelationGetRelationName(data->tg_relation))));
	if (row.flag < 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot insert into table \"%s\": %s is no kind of reaction of entity type \"%s\"",
						RelationGetRelationName(data->tg_relation), captured_label(&columns, &row), type->name),
				 errdetail("Such rows are not mirrored, and the table itself is not written in phase %s.", phase_name(type))));
	write_react(type, row.user_id, row.entity_id, row.flag, row.created_at);
}

PG_FUNCTION_INFO_V1(reactions_redirect);

/* BEFORE INSERT of each row */
Datum
reactions_redirect(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	ReactionType *type;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(data->tg_event) || !TRIGGER_FIRED_BEFORE(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by a BEFORE ROW trigger", "_redirect")));
	type = catalog_type_of_table(RelationGetRelid(data->tg_relation));
	if (!legacy_is_frozen(type) || capture_is_off())
		return PointerGetDatum(data->tg_trigtuple);
	if (!type->redirects_inserts)
		refuse(type, data);
	redirect_row(type, data);
	return PointerGetDatum(NULL);
}
