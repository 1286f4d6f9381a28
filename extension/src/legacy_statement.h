/* Statements on the attached table, run as its owner; within legacy*.c. */
#ifndef PG_REACTIONS_LEGACY_STATEMENT_H
#define PG_REACTIONS_LEGACY_STATEMENT_H

#include "legacy.h"

#include "executor/spi.h"

typedef enum LegacyStatement
{
	READ_USER,
	READ_ENTITIES,
	READ_PAGE,
	COUNT_KINDS,
	COUNT_USERS,
	READ_NEWEST_REACTORS,
	READ_REACTORS,
	INSERT_KIND,
	DELETE_KIND,
	WRITE_BACK_INSERT,
	WRITE_BACK_DELETE,
	LEGACY_STATEMENTS
} LegacyStatement;

typedef struct LegacyPlans
{
	Oid			kind_type;
	SPIPlanPtr	of[LEGACY_STATEMENTS];	/* NULL until they are first run */
	MemoryContextCallback reset;
} LegacyPlans;

/* The type's plans; raises if its table, or the column of kinds, is gone. */
extern LegacyPlans *legacy_plans(ReactionType *type);

/* The table's name for a statement's text. */
extern const char *legacy_table_name(ReactionType *type);

/* Plans are made as the owner, too: whoever looks up names needs USAGE of the table's schema. */
extern SPIPlanPtr legacy_prepare(ReactionType *type, const char *statement, int argument_count, Oid *argument_types);

/* ... planned anew for the values of each call, since entities differ by many orders of magnitude. */
extern SPIPlanPtr legacy_prepare_for_values(ReactionType *type, const char *statement, int argument_count, Oid *argument_types);

/* Runs the plan as the table's owner; with a snapshot it only reads, in exactly that snapshot. */
extern void legacy_execute(ReactionType *type, SPIPlanPtr plan, Datum *arguments, Snapshot snapshot, int expected);

/* ", column" and ", value" for every column of extra_values but one, which may be NULL. */
extern void legacy_append_extra(ReactionType *type, const char *except, StringInfo columns, StringInfo values);

/* The label under which the table keeps a kind: one that kind_map leads to it, else the kind's own name. */
extern char *legacy_label(ReactionType *type, int32 flag);

/* All labels that lead to a kind. */
extern List *legacy_labels(ReactionType *type, int32 flag);

/*
 * Every label under which the table may keep one of the kinds of `mask`, as an array of the column's enumeration or of text: what the
 * planner knows of the column it knows of these.
 */
extern Datum legacy_label_array(ReactionType *type, int32 mask);
extern Oid	legacy_label_array_type(ReactionType *type);

/* The condition that the kind of a row of `table` is one of the labels, a parameter of that type. */
extern char *legacy_kind_is_one_of(ReactionType *type, const char *table, const char *labels);

/* Of the last statement's result: a column of type bigint, 0 if it is null. */
extern int64 legacy_number(uint64 row, int column);

/* ... the flag of a row's kind; -1 if it is skipped. */
extern int32 legacy_row_flag(ReactionType *type, uint64 row, int column);

#endif							/* PG_REACTIONS_LEGACY_STATEMENT_H */
