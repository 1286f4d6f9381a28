/*
 * Who has reacted to an entity, newest first, from the attached table, as its owner.
 *
 * A user's place is the time of his newest row. If the column of times is NOT NULL, rows are walked through from the newest on, and a row
 * counts if its user has no newer one: with an index on (entity, time) a page costs what it holds, however many have reacted and
 * however deep it is. Users of a rare kind may be few among many, so they are looked for in a window of rows first. What that
 * does not find, and everything of a table without such a column, comes from a statement that reads all that the entity has.
 */
#include "legacy_entity.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "legacy_statement.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* Rows of the entity that are looked through for users of some kinds before all are. */
#define LEAST_WINDOW 1000

/* Of all statements: entity, labels of all kinds, labels wanted, time and user of the bound, users wanted, rows of the window. */
#define ARGUMENTS 7
static Oid	argument_types[ARGUMENTS] = {INT8OID, TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZOID, INT8OID, INT8OID, INT8OID};

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
	return psprintf("SELECT p.u, l.%3$s, p.c FROM (%5$s) p JOIN ONLY %1$s l ON l.%2$s OPERATOR(pg_catalog.=) $1 "
					"AND l.%4$s OPERATOR(pg_catalog.=) p.u ORDER BY p.c DESC, p.u DESC",
					legacy_table_name(type), quote_identifier(type->entity_column), quote_identifier(type->kind_column),
					quote_identifier(type->user_column), page);
}

/* From the newest row on; if only some kinds are wanted, within a window of rows. */
static char *
walking_statement(ReactionType *type, TimeColumn column, bool of_some_kinds)
{
	const char *table = legacy_table_name(type);
	const char *entity = quote_identifier(type->entity_column);
	const char *user = quote_identifier(type->user_column);
	char	   *rows = psprintf("SELECT t.ctid AS place, t.%3$s AS u, t.%4$s AS c FROM ONLY %1$s t "
								"WHERE t.%2$s OPERATOR(pg_catalog.=) $1 AND %5$s "
								"AND (t.%4$s, t.%3$s::pg_catalog.int8) OPERATOR(pg_catalog.<) (%6$s, $5)",
								table, entity, user, column.name, legacy_kind_is_one_of(type, "t", "$2"),
								column.has_zone ? "$4" : "pg_catalog.timezone('UTC', $4)");
	char	   *is_newest = psprintf("NOT EXISTS (SELECT FROM ONLY %1$s n WHERE n.%2$s OPERATOR(pg_catalog.=) $1 "
									 "AND n.%3$s OPERATOR(pg_catalog.=) r.u AND %5$s "
									 "AND (n.%4$s, n.ctid) OPERATOR(pg_catalog.>) (r.c, r.place))",
									 table, entity, user, column.name, legacy_kind_is_one_of(type, "n", "$2"));
	char	   *is_wanted = psprintf("EXISTS (SELECT FROM ONLY %1$s k WHERE k.%2$s OPERATOR(pg_catalog.=) $1 "
									 "AND k.%3$s OPERATOR(pg_catalog.=) r.u AND %4$s)",
									 table, entity, user, legacy_kind_is_one_of(type, "k", "$3"));

	if (of_some_kinds)
	{
		rows = psprintf("%s ORDER BY t.%s DESC, t.%s DESC LIMIT $7", rows, column.name, user);
		is_newest = psprintf("%s AND %s", is_newest, is_wanted);
	}
	return with_kinds(type, psprintf("SELECT r.u::pg_catalog.int8 AS u, %s AS c FROM (%s) r WHERE %s "
									 "ORDER BY r.c DESC, r.u DESC LIMIT $6",
									 column.has_zone ? "r.c" : "pg_catalog.timezone('UTC', r.c)", rows, is_newest));
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

	return with_kinds(type, psprintf("SELECT t.%3$s::pg_catalog.int8 AS u, %4$s AS c FROM ONLY %1$s t "
									 "WHERE t.%2$s OPERATOR(pg_catalog.=) $1 AND %5$s AND t.%3$s IN ("
									 "SELECT k.%3$s FROM ONLY %1$s k WHERE k.%2$s OPERATOR(pg_catalog.=) $1 AND %6$s) "
									 "GROUP BY 1 HAVING (%4$s, t.%3$s::pg_catalog.int8) OPERATOR(pg_catalog.<) ($4, $5) "
									 "ORDER BY 2 DESC, 1 DESC LIMIT $6",
									 table, entity, user, newest, legacy_kind_is_one_of(type, "t", "$2"),
									 legacy_kind_is_one_of(type, "k", "$3")));
}

static SPIPlanPtr
plan_of(ReactionType *type, LegacyStatement statement, TimeColumn column)
{
	SPIPlanPtr *plan = &legacy_plans(type)->of[statement];

	if (*plan == NULL)
		*plan = legacy_prepare_for_values(type, statement == READ_REACTORS_OF_ALL ? reading_statement(type, column)
										  : walking_statement(type, column, statement == READ_REACTORS_OF_KINDS),
										  ARGUMENTS, argument_types);
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
	bool		of_all_kinds = mask == type->all_flags;
	Datum		arguments[ARGUMENTS] = {
		Int64GetDatum(entity_id), legacy_label_array(type, type->all_flags), legacy_label_array(type, mask),
		TimestampTzGetDatum(after == NULL ? DT_NOEND : after->created_at),
		Int64GetDatum(after == NULL ? PG_INT64_MAX : after->user_id), Int64GetDatum((int64) limit),
		Int64GetDatum(Max((int64) limit * 4, LEAST_WINDOW))
	};

	SPI_connect();
	*count = 0;
	if (column.not_null)
		*count = read_reactors(type, of_all_kinds ? READ_REACTORS : READ_REACTORS_OF_KINDS, column, arguments, snapshot, reactors);
	if (*count < limit && !(column.not_null && of_all_kinds))
		*count = read_reactors(type, READ_REACTORS_OF_ALL, column, arguments, snapshot, reactors);
	SPI_finish();
	return reactors;
}
