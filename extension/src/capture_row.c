/*
 * Rows of an attached table as reactions.
 */
#include "capture.h"

#include "catalog/pg_type.h"
#include "legacy.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

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

CapturedColumns
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

int64
captured_integer(Datum value, Oid type)
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

CapturedRow
captured_row(ReactionType *type, const CapturedColumns *columns, TupleTableSlot *slot, TimestampTz now)
{
	bool		user_null;
	bool		entity_null;
	bool		kind_null;
	Datum		user = slot_getattr(slot, columns->user_id, &user_null);
	Datum		entity = slot_getattr(slot, columns->entity_id, &entity_null);
	CapturedRow row = {0, 0, -1, now};

	row.kind = slot_getattr(slot, columns->kind, &kind_null);
	row.has_null = user_null || entity_null || kind_null;
	/* attach demands NOT NULL; if it was dropped since, such a row is no reaction */
	if (row.has_null)
		return row;
	row.flag = legacy_flag(type, columns->kind_type, row.kind);
	row.user_id = captured_integer(user, columns->user_type);
	row.entity_id = captured_integer(entity, columns->entity_type);
	row.created_at = created_value(slot, columns, now);
	return row;
}

char *
captured_label(const CapturedColumns *columns, const CapturedRow *row)
{
	Oid			output;
	bool		is_varlena;

	if (row->has_null)
		return NULL;
	getTypeOutputInfo(columns->kind_type, &output, &is_varlena);
	return OidOutputFunctionCall(output, row->kind);
}
