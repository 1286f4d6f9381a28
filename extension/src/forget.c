/*
 * What forget_user and forget_entity need of C: rows deleted as the table's owner, and the event that a user or an entity is gone.
 */
#include "legacy_statement.h"

#include "capture.h"
#include "catalog/pg_type.h"
#include "gone.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Captured as any DELETE is, unless the table is frozen: what it holds then says nothing of any reaction. */
static int64
delete_rows(ReactionType *type, const char *column, int64 id)
{
	Oid			types[1] = {INT8OID};
	Datum		arguments[1] = {Int64GetDatum(id)};
	bool		frozen = legacy_is_frozen(type);
	SPIPlanPtr	plan;
	int64		count = 0;

	SPI_connect();
	plan = legacy_prepare(type, psprintf("DELETE FROM ONLY %s WHERE %s OPERATOR(pg_catalog.=) $1", legacy_table_name(type),
										 quote_identifier(column)),
						  1, types);
	if (frozen)
		capture_off();
	PG_TRY();
	{
		legacy_execute(type, plan, arguments, InvalidSnapshot, SPI_OK_DELETE);
		count = (int64) SPI_processed;
	}
	PG_FINALLY();
	{
		if (frozen)
			capture_on();
		SPI_freeplan(plan);
	}
	PG_END_TRY();
	SPI_finish();
	return count;
}

PG_FUNCTION_INFO_V1(reactions_delete_rows);

/* _delete_rows(entity_type text, user_id bigint, entity_id bigint) returns bigint; one of the ids is null */
Datum
reactions_delete_rows(PG_FUNCTION_ARGS)
{
	ReactionType *type;

	PreventCommandIfReadOnly("reactions._delete_rows()");
	catalog_fence();
	type = catalog_type_of_argument(PG_GETARG_TEXT_PP(0));
	if (!OidIsValid(type->legacy_table))
		PG_RETURN_INT64(0);
	if (!PG_ARGISNULL(1))
		PG_RETURN_INT64(delete_rows(type, type->user_column, PG_GETARG_INT64(1)));
	PG_RETURN_INT64(delete_rows(type, type->entity_column, PG_GETARG_INT64(2)));
}

PG_FUNCTION_INFO_V1(reactions_write_removal);

/*
 * _write_removal(type_id smallint, user_id bigint, entity_id bigint) returns the event's version; one of the ids is null. Of a detached
 * type, too: its reactions are still in ClickHouse.
 */
Datum
reactions_write_removal(PG_FUNCTION_ARGS)
{
	ReactionType *type;
	OutboxEvent event = {0};
	char		scope = PG_ARGISNULL(1) ? SCOPE_ENTITY : SCOPE_USER;

	PreventCommandIfReadOnly("reactions._write_removal()");
	catalog_fence();
	type = catalog_type_of_id(PG_GETARG_INT16(0));
	if (type == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("entity type %d does not exist", PG_GETARG_INT16(0))));
	event.user_id = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT64(1);
	event.entity_id = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2);
	event.created_at = GetCurrentTimestamp();
	event.delta_known = true;
	gone_lock(type, scope, scope == SCOPE_USER ? &event.user_id : &event.entity_id, 1);
	outbox_insert(type, scope, &event, 1);
	PG_RETURN_INT64(event.version);
}
