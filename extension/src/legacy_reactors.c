/*
 * Who has reacted to an entity, newest first, from the attached table, as its owner.
 *
 * A user's place is the time of his newest row. If the column of times is NOT NULL, a window of rows is looked through, those that
 * follow the bound, and a row counts if its user has no newer one: with an index on (entity, time) a page costs what it holds, however
 * many have reacted and however deep it is. A second window is larger, for users of a kind that few have. What that does not find either,
 * and everything of a table without such a column, comes from a statement that reads all that the entity has.
 */
#include "legacy_entity.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "legacy_statement.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* Of both statements: entity, labels of all kinds, labels wanted, time and user of the bound, users wanted, rows of the window. */
#define ARGUMENTS 7
#define WINDOW_ARGUMENT 6

/* The column of times, or that there is none that can be used. */
typedef struct TimeColumn
{
	const char *name;			/* quoted; NULL: none */
	bool		has_zone;		/* else it is UTC, as capture takes it */
	bool		not_null;
} TimeColumn;

static TimeColumn
time_column(const ReactionType *type)
{
	TimeColumn	column = {0};
	HeapTuple	tuple = type->created_column == NULL ? NULL : SearchSysCacheAttName(type->legacy_table, type->created_column);
	Form_pg_attribute attribute;

	if (!HeapTupleIsValid(tuple))
		return column;
	attribute = (Form_pg_attribute) GETSTRUCT(tuple);
	if (attribute->atttypid == TIMESTAMPOID || attribute->atttypid == TIMESTAMPTZOID)
		column = (TimeColumn) {quote_identifier(type->created_column), attribute->atttypid == TIMESTAMPTZOID, attribute->attnotnull};
	ReleaseSysCache(tuple);
	return column;
}

/* A row's time as timestamptz. */
static char *
time_of(TimeColumn column, const char *table)
{
	return psprintf(column.has_zone ? "%s.%s" : "pg_catalog.timezone('UTC', %s.%s)", table, column.name);
}

/* The rows of a page's users: user, kind, time of the newest. `page` is a query of users and times. */
static char *
with_kinds(ReactionType *type, const char *page)
{
	return psprintf("SELECT p.u, l.%3$s AS k, p.c FROM (%5$s) p JOIN ONLY %1$s l ON l.%2$s OPERATOR(pg_catalog.=) $1 "
					"AND l.%4$s OPERATOR(pg_catalog.=) p.u",
					legacy_table_name(type), quote_identifier(type->entity_column), quote_identifier(type->kind_column),
					quote_identifier(type->user_column), page);
}

/* By a window of rows, whose number is told with each; one row without a user if that is all there is to tell. */
static char *
newest_statement(ReactionType *type, TimeColumn column)
{
	const char *table = legacy_table_name(type);
	const char *entity = quote_identifier(type->entity_column);
	const char *user = quote_identifier(type->user_column);
	char	   *rows = psprintf("SELECT t.ctid AS place, t.%3$s AS u, t.%4$s AS c FROM ONLY %1$s t "
								"WHERE t.%2$s OPERATOR(pg_catalog.=) $1 AND %5$s "
								"AND (t.%4$s, t.%3$s::pg_catalog.int8) OPERATOR(pg_catalog.<) (%6$s, $5) "
								"ORDER BY t.%4$s DESC, t.%3$s DESC LIMIT $7",
								table, entity, user, column.name, legacy_kind_is_one_of(type, "t", "$2"),
								column.has_zone ? "$4" : "pg_catalog.timezone('UTC', $4)");
	char	   *page = psprintf("SELECT r.u::pg_catalog.int8 AS u, %5$s AS c FROM w r "
								"WHERE NOT EXISTS (SELECT FROM ONLY %1$s n WHERE n.%2$s OPERATOR(pg_catalog.=) $1 "
								"AND n.%3$s OPERATOR(pg_catalog.=) r.u AND %6$s "
								"AND (n.%4$s, n.ctid) OPERATOR(pg_catalog.>) (r.c, r.place)) "
								"AND EXISTS (SELECT FROM ONLY %1$s k WHERE k.%2$s OPERATOR(pg_catalog.=) $1 "
								"AND k.%3$s OPERATOR(pg_catalog.=) r.u AND %7$s) ORDER BY r.c DESC, r.u DESC LIMIT $6",
								table, entity, user, column.name, column.has_zone ? "r.c" : "pg_catalog.timezone('UTC', r.c)",
								legacy_kind_is_one_of(type, "n", "$2"), legacy_kind_is_one_of(type, "k", "$3"));

	return psprintf("WITH w AS (%s) SELECT f.u, f.k, f.c, window_rows.n FROM (SELECT pg_catalog.count(*) AS n FROM w) window_rows "
					"LEFT JOIN (%s) f ON true ORDER BY f.c DESC, f.u DESC", rows, with_kinds(type, page));
}

/* By all rows of the users who have one of the kinds. */
static char *
reading_statement(ReactionType *type, TimeColumn column)
{
	const char *table = legacy_table_name(type);
	const char *entity = quote_identifier(type->entity_column);
	const char *user = quote_identifier(type->user_column);
	char	   *newest = column.name == NULL ? "'-infinity'::pg_catalog.timestamptz"
		: psprintf("pg_catalog.max(coalesce(%s, '-infinity'::pg_catalog.timestamptz))", time_of(column, "t"));
	char	   *page = psprintf("SELECT t.%3$s::pg_catalog.int8 AS u, %4$s AS c FROM ONLY %1$s t "
								"WHERE t.%2$s OPERATOR(pg_catalog.=) $1 AND %5$s AND t.%3$s OPERATOR(pg_catalog.=) ANY ("
								"SELECT k.%3$s FROM ONLY %1$s k WHERE k.%2$s OPERATOR(pg_catalog.=) $1 AND %6$s) "
								"GROUP BY 1 HAVING (%4$s, t.%3$s::pg_catalog.int8) OPERATOR(pg_catalog.<) ($4, $5) "
								"ORDER BY 2 DESC, 1 DESC LIMIT $6",
								table, entity, user, newest, legacy_kind_is_one_of(type, "t", "$2"),
								legacy_kind_is_one_of(type, "k", "$3"));

	return psprintf("%s ORDER BY p.c DESC, p.u DESC", with_kinds(type, page));
}

static SPIPlanPtr
plan_of(ReactionType *type, LegacyStatement statement, TimeColumn column)
{
	SPIPlanPtr *plan = &legacy_plans(type)->of[statement];

	if (*plan == NULL)
	{
		Oid			labels = legacy_label_array_type(type);
		Oid			types[ARGUMENTS] = {INT8OID, labels, labels, TIMESTAMPTZOID, INT8OID, INT8OID, INT8OID};

		*plan = legacy_prepare_for_values(type, statement == READ_REACTORS ? reading_statement(type, column)
										  : newest_statement(type, column), ARGUMENTS, types);
	}
	return *plan;
}

/* Runs the statement; returns how many users it has found. */
static size_t
read_reactors(ReactionType *type, LegacyStatement statement, TimeColumn column, Datum *arguments, Snapshot snapshot,
			  TableReactor *reactors)
{
	size_t		count = 0;

	legacy_execute(type, plan_of(type, statement, column), arguments, snapshot, SPI_OK_SELECT);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		int64		user_id = legacy_number(row, 1);
		int32		of = legacy_row_flag(type, row, 2);

		if (of < 0)
			continue;
		if (count == 0 || reactors[count - 1].user_id != user_id)
			reactors[count++] = (TableReactor) {user_id, legacy_number(row, 3), 0};
		reactors[count - 1].flags |= of;
	}
	return count;
}

TableReactor *
legacy_read_reactors(ReactionType *type, int64 entity_id, int32 mask, const TableReactor *after, int limit, Snapshot snapshot,
					 size_t *count)
{
	TableReactor *reactors = palloc_array(TableReactor, limit);
	TimeColumn	column = time_column(type);
	int64		windows[] = {(int64) limit * 2 + 20, (int64) limit * 20 + 1000};
	Datum		arguments[ARGUMENTS] = {
		Int64GetDatum(entity_id), legacy_label_array(type, type->all_flags), legacy_label_array(type, mask),
		TimestampTzGetDatum(after == NULL ? DT_NOEND : after->created_at),
		Int64GetDatum(after == NULL ? PG_INT64_MAX : after->user_id), Int64GetDatum((int64) limit)
	};
	bool		is_known = false;

	SPI_connect();
	*count = 0;
	for (size_t i = 0; column.not_null && i < lengthof(windows) && !is_known; i++)
	{
		arguments[WINDOW_ARGUMENT] = Int64GetDatum(windows[i]);
		*count = read_reactors(type, READ_NEWEST_REACTORS, column, arguments, snapshot, reactors);
		is_known = *count == limit || legacy_number(0, 4) < windows[i];
	}
	if (!is_known)
		*count = read_reactors(type, READ_REACTORS, column, arguments, snapshot, reactors);
	SPI_finish();
	return reactors;
}
