/*
 * The functions that read: flags, flags_many, by_user, kinds, has.
 *
 * flags() called for every row of a statement fetches once or twice per user: the second call of a call site under the same snapshot
 * fetches the user's whole map, and the others are answered from it. "Same snapshot" is by content, because PL/pgSQL keeps call
 * sites for the whole transaction: the snapshot changes with every statement that could see anything new.
 */
#include "functions.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "guc.h"
#include "miscadmin.h"
#include "read.h"
#include "report.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog/pg_type.h"

#define MAXIMUM_IDS 100000
#define MAXIMUM_PAGE 100000

/* What a snapshot shows, as far as two of one transaction can differ. */
typedef struct SnapshotContent
{
	TransactionId xmin;
	TransactionId xmax;
	uint32		running;		/* hash of the transactions in progress */
	CommandId	command;
	TimestampTz statement;
} SnapshotContent;

typedef struct CallSite
{
	SnapshotContent snapshot;
	int16		type_id;
	int64		epoch;
	ReactionPhase phase;
	int64		user_id;
	int			calls;
	bool		is_large;		/* the user has more than a map holds: no whole fetch */
	bool		has_whole;
	UserFlags	whole;
	MemoryContext context;		/* of `whole` */
} CallSite;

static SnapshotContent
snapshot_content(void)
{
	Snapshot	snapshot = GetActiveSnapshot();
	SnapshotContent content;

	memset(&content, 0, sizeof(content));
	content.xmin = snapshot->xmin;
	content.xmax = snapshot->xmax;
	content.running = hash_bytes((const unsigned char *) snapshot->xip, snapshot->xcnt * sizeof(TransactionId));
	content.command = snapshot->curcid;
	content.statement = GetCurrentStatementStartTimestamp();
	return content;
}

/* The call site, emptied if it remembers something else than (type, user, snapshot). */
static CallSite *
call_site(FunctionCallInfo fcinfo, ReactionType *type, int64 user_id)
{
	CallSite   *site = fcinfo->flinfo->fn_extra;
	SnapshotContent now = snapshot_content();

	if (site == NULL)
	{
		site = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(CallSite));
		site->context = AllocSetContextCreate(fcinfo->flinfo->fn_mcxt, "pg_reactions call site", ALLOCSET_DEFAULT_SIZES);
		fcinfo->flinfo->fn_extra = site;
	}
	else if (memcmp(&site->snapshot, &now, sizeof(now)) == 0 && site->user_id == user_id &&
			 site->type_id == type->type_id && site->epoch == type->boundary.epoch && site->phase == type->phase)
		return site;
	MemoryContextReset(site->context);
	site->snapshot = now;
	site->type_id = type->type_id;
	site->epoch = type->boundary.epoch;
	site->phase = type->phase;
	site->user_id = user_id;
	site->calls = 0;
	site->is_large = false;
	site->has_whole = false;
	return site;
}

static int32
look_up(const UserFlags *whole, int64 entity_id)
{
	size_t		low = 0;
	size_t		high = whole->count;

	while (low < high)
	{
		size_t		middle = low + (high - low) / 2;

		if (whole->entity_ids[middle] < entity_id)
			low = middle + 1;
		else
			high = middle;
	}
	return low < whole->count && whole->entity_ids[low] == entity_id ? whole->flags[low] : 0;
}

void
unknown_or_raise(const rx_error *error)
{
	if (on_unavailable == ON_UNAVAILABLE_NULL && report_is_unavailable(error))
		return;
	report_raise(error);
}

/* Fetches the user's whole map into the call site; false if it cannot be known. */
static bool
fetch_whole(CallSite *site, ReactionType *type, rx_error *error)
{
	MemoryContext before = MemoryContextSwitchTo(site->context);
	bool		known = read_whole_user(type, site->user_id, &site->whole, error);

	MemoryContextSwitchTo(before);
	if (known)
	{
		site->is_large = site->whole.overflow;
		site->has_whole = !site->whole.overflow;
	}
	return known;
}

PG_FUNCTION_INFO_V1(reactions_flags);

/* flags(user_id bigint, entity_id bigint, entity_type text) returns integer */
Datum
reactions_flags(PG_FUNCTION_ARGS)
{
	int64		user_id = PG_GETARG_INT64(0);
	int64		entity_id = PG_GETARG_INT64(1);
	ReactionType *type = catalog_type_of_argument(PG_GETARG_TEXT_PP(2));
	CallSite   *site = call_site(fcinfo, type, user_id);
	rx_error	error;
	int32		flags;
	bool		known = true;

	site->calls++;
	if (!site->has_whole && site->calls > 1 && !site->is_large)
		known = fetch_whole(site, type, &error);
	if (known && site->has_whole)
		PG_RETURN_INT32(look_up(&site->whole, entity_id));
	if (known && read_entities(type, user_id, &entity_id, 1, &flags, &error))
		PG_RETURN_INT32(flags);
	unknown_or_raise(&error);
	PG_RETURN_NULL();
}

/* The executor's own description saves a look-up of the function's. */
ReturnSetInfo *
begin_rows(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		knows_columns = result != NULL && IsA(result, ReturnSetInfo) && result->expectedDesc != NULL;

	InitMaterializedSRF(fcinfo, knows_columns ? MAT_SRF_USE_EXPECTED_DESC : 0);
	return result;
}

static bool
is_ascending(const int64 *ids, int length)
{
	for (int i = 1; i < length; i++)
		if (ids[i] <= ids[i - 1])
			return false;
	return true;
}

static int
compare_positions(const void *left, const void *right, void *ids)
{
	size_t		a = *(const uint32 *) left;
	size_t		b = *(const uint32 *) right;
	const int64 *values = ids;

	if (values[a] != values[b])
		return values[a] < values[b] ? -1 : 1;
	return a < b ? -1 : a > b ? 1 : 0;
}

int64 *
distinct_ids(ArrayType *array, size_t *count)
{
	int			length;
	int64	   *ids;
	uint32	   *positions;
	bool	   *is_repeated;
	size_t		kept = 0;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("entity_ids must be a one-dimensional array")));
	length = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	if (array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("entity_ids must not contain nulls"),
				 errhint("Use array_remove(entity_ids, NULL).")));
	if (length > MAXIMUM_IDS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("entity_ids has %d elements, at most %d are allowed", length, MAXIMUM_IDS),
				 errhint("Ask in several calls.")));
	*count = 0;
	if (length == 0)
		return NULL;
	ids = palloc_array(int64, length);
	memcpy(ids, ARR_DATA_PTR(array), length * sizeof(int64));
	if (is_ascending(ids, length))
	{
		*count = length;
		return ids;
	}
	positions = palloc_array(uint32, length);
	is_repeated = palloc0_array(bool, length);
	for (int i = 0; i < length; i++)
		positions[i] = i;
	qsort_arg(positions, length, sizeof(uint32), compare_positions, ids);
	for (int i = 1; i < length; i++)
		is_repeated[positions[i]] = ids[positions[i]] == ids[positions[i - 1]];
	for (int i = 0; i < length; i++)
		if (!is_repeated[i])
			ids[kept++] = ids[i];
	*count = kept;
	return ids;
}

PG_FUNCTION_INFO_V1(reactions_flags_many);

/* flags_many(user_id bigint, entity_ids bigint[], entity_type text) returns setof (entity_id bigint, flags integer) */
Datum
reactions_flags_many(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result;
	int64		user_id = PG_GETARG_INT64(0);
	size_t		count;
	int64	   *entity_ids = distinct_ids(PG_GETARG_ARRAYTYPE_P(1), &count);
	ReactionType *type = catalog_type_of_argument(PG_GETARG_TEXT_PP(2));
	int32	   *flags = palloc_array(int32, Max(count, 1));
	rx_error	error;
	bool		known = read_entities(type, user_id, entity_ids, count, flags, &error);

	if (!known)
		unknown_or_raise(&error);
	result = begin_rows(fcinfo);
	for (size_t i = 0; i < count; i++)
	{
		Datum		values[2] = {Int64GetDatum(entity_ids[i]), known ? Int32GetDatum(flags[i]) : (Datum) 0};
		bool		nulls[2] = {false, !known};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(reactions_by_user);

/* by_user(user_id bigint, kind text, page_size integer, after bigint, entity_type text) returns setof (entity_id, flags) */
Datum
reactions_by_user(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result;
	ReactionType *type;
	int32		mask;
	int32		page_size;
	UserFlags	page;
	rx_error	error;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2) || PG_ARGISNULL(4))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("user_id, page_size and entity_type must not be null")));
	type = catalog_type_of_argument(PG_GETARG_TEXT_PP(4));
	mask = PG_ARGISNULL(1) ? type->all_flags : catalog_flag(type, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	page_size = PG_GETARG_INT32(2);
	if (page_size < 1 || page_size > MAXIMUM_PAGE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("page_size must be between 1 and %d", MAXIMUM_PAGE)));
	if (!read_page(type, PG_GETARG_INT64(0), mask, PG_ARGISNULL(3) ? PG_INT64_MIN : PG_GETARG_INT64(3), page_size,
				   &page, &error))
		report_raise(&error);
	result = begin_rows(fcinfo);
	for (size_t i = 0; i < page.count; i++)
	{
		Datum		values[2] = {Int64GetDatum(page.entity_ids[i]), Int32GetDatum(page.flags[i])};
		bool		nulls[2] = {false, false};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

static void
check_flags(const ReactionType *type, int32 flags)
{
	if ((flags & ~type->all_flags) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("flags %d are outside the kinds of entity type \"%s\"", flags, type->name),
				 errdetail("The kinds of the type make up %d.", type->all_flags)));
}

PG_FUNCTION_INFO_V1(reactions_kinds);

/* kinds(flags integer, entity_type text) returns text[], in the order of the flags */
Datum
reactions_kinds(PG_FUNCTION_ARGS)
{
	int32		flags = PG_GETARG_INT32(0);
	ReactionType *type = catalog_type_of_argument(PG_GETARG_TEXT_PP(1));
	Datum		names[32];
	int			count = 0;

	check_flags(type, flags);
	for (int bit = 0; bit < 31; bit++)
		for (size_t i = 0; i < type->boundary.kind_count; i++)
			if (type->boundary.kinds[i].flag == (1 << bit) && (flags & (1 << bit)) != 0)
				names[count++] = CStringGetTextDatum(type->boundary.kinds[i].name);
	PG_RETURN_ARRAYTYPE_P(construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT));
}

PG_FUNCTION_INFO_V1(reactions_has);

/* has(flags integer, kind text, entity_type text) returns boolean */
Datum
reactions_has(PG_FUNCTION_ARGS)
{
	int32		flags = PG_GETARG_INT32(0);
	ReactionType *type = catalog_type_of_argument(PG_GETARG_TEXT_PP(2));

	check_flags(type, flags);
	PG_RETURN_BOOL((flags & catalog_flag(type, text_to_cstring(PG_GETARG_TEXT_PP(1)))) != 0);
}
