/*
 * Kinds of the attached table: labels of its kind column, and the flags that kind_map makes of them.
 */
#include "legacy_statement.h"

#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

/* What the type's kind_map says of a label: the kind's name, "" for null (skip), or NULL if it is not mentioned. */
static char *
mapped_kind(ReactionType *type, const char *label)
{
	Jsonb	   *map;
	JsonbValue	key;
	JsonbValue *value;

	if (strcmp(type->kind_map, "{}") == 0)
		return NULL;
	map = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(type->kind_map)));
	key.type = jbvString;
	key.val.string.val = unconstify(char *, label);
	key.val.string.len = strlen(label);
	value = findJsonbValueFromContainer(&map->root, JB_FOBJECT, &key);
	if (value == NULL)
		return NULL;
	return value->type == jbvString ? pnstrdup(value->val.string.val, value->val.string.len) : "";
}

static int32
flag_of_label(ReactionType *type, const char *label)
{
	char	   *mapped = mapped_kind(type, label);
	const char *kind = mapped != NULL ? mapped : label;

	if (mapped != NULL && mapped[0] == '\0')
		return -1;
	for (size_t i = 0; i < type->boundary.kind_count; i++)
		if (strcmp(type->boundary.kinds[i].name, kind) == 0)
			return type->boundary.kinds[i].flag;
	if (type->skip_unknown)
		return -1;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" is not a kind of entity type \"%s\"", label, type->name),
			 errdetail("Table \"%s\" is attached with unknown_kinds => 'error'.", get_rel_name(type->legacy_table)),
			 errhint("Add the kind with reactions.add_kind, or attach the table with a kind_map or unknown_kinds => 'skip'.")));
}

static const char *
kind_name(ReactionType *type, int32 flag)
{
	for (size_t i = 0; i < type->boundary.kind_count; i++)
		if (type->boundary.kinds[i].flag == flag)
			return type->boundary.kinds[i].name;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("entity type \"%s\" has no kind with flag %d", type->name, flag)));
}

static char *
label_text(Oid column_type, Datum value)
{
	Oid			output;
	bool		is_varlena;

	getTypeOutputInfo(column_type, &output, &is_varlena);
	return OidOutputFunctionCall(output, value);
}

int32
legacy_flag(ReactionType *type, Oid column_type, Datum value)
{
	bool		is_enum = get_typtype(column_type) == TYPTYPE_ENUM;
	char	   *text = NULL;
	KindLabel  *entry;
	MemoryContext before;
	int32		flag;
	ListCell   *cell;

	if (!is_enum)
		text = label_text(column_type, value);
	foreach(cell, type->labels)
	{
		entry = lfirst(cell);
		if (is_enum ? entry->enum_value == DatumGetObjectId(value) : strcmp(entry->text, text) == 0)
			return entry->flag;
	}
	if (is_enum)
		text = label_text(column_type, value);
	flag = flag_of_label(type, text);

	/* A column of free text must not fill the memory. */
	if (list_length(type->labels) >= 128)
		return flag;
	before = MemoryContextSwitchTo(type->context);
	entry = palloc(sizeof(KindLabel));
	entry->enum_value = is_enum ? DatumGetObjectId(value) : InvalidOid;
	entry->text = pstrdup(text);
	entry->flag = flag;
	type->labels = lappend(type->labels, entry);
	MemoryContextSwitchTo(before);
	return flag;
}

List *
legacy_labels(ReactionType *type, int32 flag)
{
	const char *kind = kind_name(type, flag);
	Jsonb	   *map = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(type->kind_map)));
	JsonbIterator *iterator = JsonbIteratorInit(&map->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *label = NULL;
	List	   *labels = NIL;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			label = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE && value.type == jbvString && strlen(kind) == (size_t) value.val.string.len &&
				 strncmp(kind, value.val.string.val, value.val.string.len) == 0)
			labels = lappend(labels, label);
	}
	/* A kind's own name is a label of it unless the map leads it elsewhere. */
	if (mapped_kind(type, kind) == NULL)
		labels = lappend(labels, pstrdup(kind));
	return labels;
}

char *
legacy_label(ReactionType *type, int32 flag)
{
	List	   *labels = legacy_labels(type, flag);

	return labels != NIL ? linitial(labels) : pstrdup(kind_name(type, flag));
}

Oid
legacy_label_array_type(ReactionType *type)
{
	Oid			kind_type = legacy_plans(type)->kind_type;

	return get_typtype(kind_type) == TYPTYPE_ENUM ? get_array_type(kind_type) : TEXTARRAYOID;
}

/* The values of the enumeration for labels; there may be kinds that it does not know. */
static Datum
enum_array(Oid kind_type, List *labels)
{
	Datum	   *elements = palloc_array(Datum, Max(list_length(labels), 1));
	ListCell   *cell;
	int			count = 0;

	foreach(cell, labels)
	{
		Oid			value = GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid, ObjectIdGetDatum(kind_type), CStringGetDatum(lfirst(cell)));

		if (OidIsValid(value))
			elements[count++] = ObjectIdGetDatum(value);
	}
	return PointerGetDatum(construct_array(elements, count, kind_type, sizeof(Oid), true, TYPALIGN_INT));
}

static Datum
text_array(List *labels)
{
	Datum	   *elements = palloc_array(Datum, Max(list_length(labels), 1));
	ListCell   *cell;
	int			count = 0;

	foreach(cell, labels)
		elements[count++] = CStringGetTextDatum(lfirst(cell));
	return PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT));
}

Datum
legacy_label_array(ReactionType *type, int32 mask)
{
	Oid			kind_type = legacy_plans(type)->kind_type;
	List	   *labels = NIL;

	for (size_t i = 0; i < type->boundary.kind_count; i++)
		if ((type->boundary.kinds[i].flag & mask) != 0)
			labels = list_concat(labels, legacy_labels(type, type->boundary.kinds[i].flag));
	return get_typtype(kind_type) == TYPTYPE_ENUM ? enum_array(kind_type, labels) : text_array(labels);
}

char *
legacy_kind_is_one_of(ReactionType *type, const char *table, const char *labels)
{
	bool		is_enum = get_typtype(legacy_plans(type)->kind_type) == TYPTYPE_ENUM;

	return psprintf("%s.%s%s OPERATOR(pg_catalog.=) ANY (%s)", table, quote_identifier(type->kind_column),
					is_enum ? "" : "::pg_catalog.text", labels);
}
