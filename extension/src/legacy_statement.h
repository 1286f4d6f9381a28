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

/* Runs the plan as the table's owner; with a snapshot it only reads, in exactly that snapshot. */
extern void legacy_execute(ReactionType *type, SPIPlanPtr plan, Datum *arguments, Snapshot snapshot, int expected);

/* ", column" and ", value" for every column of extra_values but one, which may be NULL. */
extern void legacy_append_extra(ReactionType *type, const char *except, StringInfo columns, StringInfo values);

/* The label under which the table keeps a kind: one that kind_map leads to it, else the kind's own name. */
extern char *legacy_label(ReactionType *type, int32 flag);

/* All labels that lead to a kind. */
extern List *legacy_labels(ReactionType *type, int32 flag);

#endif							/* PG_REACTIONS_LEGACY_STATEMENT_H */
