/*
 * Changing the attached table, which its capture then writes to the outbox.
 */
#include "legacy_statement.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

/* The cast through text keeps values such as 'now' from being frozen in the plan. */
void
legacy_append_extra(ReactionType *type, const char *except, StringInfo columns, StringInfo values)
{
	Jsonb	   *extra = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(type->extra_values)));
	JsonbIterator *iterator = JsonbIteratorInit(&extra->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *column = NULL;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			column = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE && (except == NULL || strcmp(column, except) != 0))
		{
			char	   *text = value.type == jbvString ? pnstrdup(value.val.string.val, value.val.string.len)
				: value.type == jbvNumeric ? DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value.val.numeric)))
				: value.type == jbvBool ? (value.val.boolean ? "true" : "false") : NULL;

			appendStringInfo(columns, ", %s", quote_identifier(column));
			appendStringInfo(values, ", %s::pg_catalog.text::%s", text == NULL ? "NULL" : quote_literal_cstr(text),
							 format_type_extended(get_atttype(type->legacy_table, get_attnum(type->legacy_table, column)),
												  -1, FORMAT_TYPE_FORCE_QUALIFY));
		}
	}
}

static SPIPlanPtr
insert_plan(ReactionType *type, LegacyPlans *plans)
{
	Oid			types[3] = {INT8OID, INT8OID, TEXTOID};
	StringInfoData columns;
	StringInfoData values;
	char	   *kind_type = format_type_extended(plans->kind_type, -1, FORMAT_TYPE_FORCE_QUALIFY);
	char	   *on_conflict;

	if (plans->of[INSERT_KIND] != NULL)
		return plans->of[INSERT_KIND];
	initStringInfo(&columns);
	initStringInfo(&values);
	appendStringInfo(&columns, "%s, %s, %s", quote_identifier(type->user_column), quote_identifier(type->entity_column),
					 quote_identifier(type->kind_column));
	appendStringInfo(&values, "$1, $2, $3::%s", kind_type);
	legacy_append_extra(type, NULL, &columns, &values);

	/* The index is named, so that another one which is in the way raises. IS DISTINCT FROM would look its operator up by search_path. */
	on_conflict = psprintf(type->exclusive
						   ? "(%1$s, %2$s) DO UPDATE SET %3$s = EXCLUDED.%3$s WHERE NOT (r.%3$s OPERATOR(pg_catalog.=) EXCLUDED.%3$s)"
						   : "(%1$s, %2$s, %3$s) DO NOTHING",
						   quote_identifier(type->user_column), quote_identifier(type->entity_column),
						   quote_identifier(type->kind_column));
	plans->of[INSERT_KIND] = legacy_prepare(type, psprintf("INSERT INTO %s AS r (%s) VALUES (%s) ON CONFLICT %s",
									 legacy_table_name(type), columns.data, values.data, on_conflict),
							3, types);
	return plans->of[INSERT_KIND];
}

static SPIPlanPtr
delete_plan(ReactionType *type, LegacyPlans *plans)
{
	Oid			types[3] = {INT8OID, INT8OID, TEXTOID};

	if (plans->of[DELETE_KIND] == NULL)
		plans->of[DELETE_KIND] =
			legacy_prepare(type, psprintf("DELETE FROM ONLY %s WHERE %s OPERATOR(pg_catalog.=) $1 AND %s OPERATOR(pg_catalog.=) $2 "
							 "AND %s OPERATOR(pg_catalog.=) $3::%s",
							 legacy_table_name(type), quote_identifier(type->user_column), quote_identifier(type->entity_column),
							 quote_identifier(type->kind_column),
							 format_type_extended(plans->kind_type, -1, FORMAT_TYPE_FORCE_QUALIFY)),
					3, types);
	return plans->of[DELETE_KIND];
}

void
legacy_change(ReactionType *type, int64 user_id, int64 entity_id, int32 set_mask, int32 clear_mask)
{
	LegacyPlans *plans = legacy_plans(type);
	Datum		arguments[3] = {Int64GetDatum(user_id), Int64GetDatum(entity_id), (Datum) 0};

	SPI_connect();
	for (size_t i = 0; i < type->boundary.kind_count; i++)
	{
		int32		flag = type->boundary.kinds[i].flag;

		/* An exclusive row is replaced by the insert, not removed first. */
		if ((clear_mask & flag) == 0 || (type->exclusive && set_mask != 0))
			continue;
		arguments[2] = CStringGetTextDatum(legacy_label(type, flag));
		legacy_execute(type, delete_plan(type, plans), arguments, InvalidSnapshot, SPI_OK_DELETE);
	}
	for (size_t i = 0; i < type->boundary.kind_count; i++)
	{
		int32		flag = type->boundary.kinds[i].flag;

		if ((set_mask & flag) == 0)
			continue;
		arguments[2] = CStringGetTextDatum(legacy_label(type, flag));
		legacy_execute(type, insert_plan(type, plans), arguments, InvalidSnapshot, SPI_OK_INSERT);
	}
	SPI_finish();
}
