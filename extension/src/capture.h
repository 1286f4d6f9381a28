/* Capture of attached tables. */
#ifndef PG_REACTIONS_CAPTURE_H
#define PG_REACTIONS_CAPTURE_H

#include "catalog.h"

#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "utils/rel.h"

extern void capture_init(void);

/* Statements that are run from here, though not those of triggers that they fire, pass the table's triggers without an event. */
extern void capture_off(void);
extern void capture_on(void);
extern bool capture_is_off(void);

/* A statement on an attached table, from its BEFORE to its AFTER trigger. */
typedef struct EndedStatement
{
	bool		has_events_within;	/* events were written since it began */
	bool		is_referential;
} EndedStatement;

extern void statement_began(Oid table, bool is_referential);

/* Ends the innermost open statement on the table. */
extern EndedStatement statement_ended(Oid table);

/* The captured columns in a table's descriptor. */
typedef struct CapturedColumns
{
	AttrNumber	user_id;
	AttrNumber	entity_id;
	AttrNumber	kind;
	AttrNumber	created_at;		/* InvalidAttrNumber without one */
	Oid			user_type;
	Oid			entity_type;
	Oid			kind_type;
	Oid			created_type;
} CapturedColumns;

extern CapturedColumns captured_columns(ReactionType *type, Relation relation);

/* A row of an attached table. */
typedef struct CapturedRow
{
	int64		user_id;
	int64		entity_id;
	int32		flag;			/* -1: no reaction */
	TimestampTz created_at;
	bool		has_null;		/* in one of the columns */
	Datum		kind;
} CapturedRow;

extern CapturedRow captured_row(ReactionType *type, const CapturedColumns *columns, TupleTableSlot *slot, TimestampTz now);

/* The label of a row's kind; NULL if the row has a null. */
extern char *captured_label(const CapturedColumns *columns, const CapturedRow *row);

/* An integer of any width. */
extern int64 captured_integer(Datum value, Oid type);

#endif							/* PG_REACTIONS_CAPTURE_H */
