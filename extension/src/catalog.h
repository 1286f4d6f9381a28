/* Entity types and kinds, as cached per backend, and the fence that orders writers and flips. */
#ifndef PG_REACTIONS_CATALOG_H
#define PG_REACTIONS_CATALOG_H

#include "compat.h"

#include "CReactionsBoundary.h"
#include "nodes/pg_list.h"
#include "utils/snapshot.h"

#define OUTBOX_TABLES 3

typedef enum ReactionPhase
{
	PHASE_NATIVE,
	PHASE_ATTACHED,
	PHASE_DUAL_READ,
	PHASE_SWITCH_READS,
	PHASE_STOP_WRITES,
	PHASE_ARCHIVED,
	PHASE_DETACHED
} ReactionPhase;

/* Where a label of a legacy table's kind column leads. */
typedef struct KindLabel
{
	Oid			enum_value;		/* of an enum column, else InvalidOid */
	char	   *text;
	int32		flag;			/* 0: not a reaction, skipped */
} KindLabel;

typedef struct ReactionType
{
	int16		type_id;
	char	   *name;
	bool		exclusive;
	ReactionPhase phase;
	Oid			legacy_table;	/* InvalidOid without one */
	char	   *user_column;
	char	   *entity_column;
	char	   *kind_column;
	char	   *created_column; /* NULL without one */
	char	   *extra_values;	/* jsonb, as text */
	char	   *kind_map;		/* jsonb, as text */
	bool		skip_unknown;
	bool		backfilled;		/* an UPDATE that changes nothing needs no event */
	bool		redirects_inserts;	/* INSERTs into a frozen table become react */
	int32		all_flags;		/* of every kind */
	int32		viral_threshold;	/* reactions from which on an entity is viral */
	rx_type		boundary;		/* the same for the Swift half; system identifier and timeline are set per use */

	List	   *labels;			/* of KindLabel, found so far */
	struct LegacyPlans *plans;	/* of legacy.c, made on first use */
	MemoryContext context;		/* all of the above lives here */
} ReactionType;

/* The extension's own relations. */
typedef struct CatalogRelations
{
	Oid			namespace_id;
	Oid			entity_type;
	Oid			kind;
	Oid			generation;
	Oid			version_sequence;
	Oid			mirror;
	Oid			batch;
	Oid			batch_key;
	Oid			skipped;
	Oid			refused;
	Oid			refused_key;
	Oid			outbox[OUTBOX_TABLES];
	Oid			outbox_key[OUTBOX_TABLES];
} CatalogRelations;

extern void catalog_init(void);

/* The relations; raises if the extension is not created in this database. */
extern const CatalogRelations *catalog_relations(void);

/* The type; raises 42704 if there is none of that name, 55000 if it is detached. Valid until the end of the transaction, even if it is changed meanwhile. */
extern ReactionType *catalog_type_of_argument(text *name);
extern ReactionType *catalog_type_of_table(Oid table);

/* NULL if there is none of that number. */
extern ReactionType *catalog_type_of_id(int16 type_id);

/* As cached, without looking anything up: NULL if unknown or stale. For use where nothing may be raised. */
extern ReactionType *catalog_cached_type(int16 type_id);

/* The outbox table that is written at present, 0 .. OUTBOX_TABLES - 1. */
extern int	catalog_current_outbox(void);

/* Whether any table may have refused something: what is noted before a rollback's flip is seen by whoever sees the flip. */
extern bool catalog_has_refused(void);

/* The flag of a kind; raises 22023 if the type has no such kind. */
extern int32 catalog_flag(ReactionType *type, const char *kind);

/* For the Swift half: the type with what its stamp is made of. */
extern const rx_type *catalog_boundary(ReactionType *type);

/*
 * What versions are drawn from: the cluster's system identifier, mixed with the OIDs of database and version sequence. A dump that is
 * restored beside its original, or over it, and a clone of the database start a sequence anew, or share its numbers.
 */
extern uint64 catalog_system_identifier(void);

/* Sets system identifier and timeline of this server. */
extern void catalog_cluster(rx_type *boundary);

/* The fence: taken by every writer, every time; what is read of the catalog afterwards holds until the transaction ends. */
extern void catalog_fence(void);

/* Fails a statement that waited at the fence and found the type in another phase: 40001. */
extern void catalog_refuse_other_phase(const ReactionType *type) pg_attribute_noreturn();

/* The type's phase when the snapshot was taken. */
extern ReactionPhase catalog_phase_in(const ReactionType *type, Snapshot snapshot);

/* The phase in which this transaction's statements see the type's table: that of its one snapshot, if it has one, else the present one. */
extern ReactionPhase catalog_phase_seen(const ReactionType *type);

/* The newest snapshot, which a REPEATABLE READ transaction's own is not; in parallel mode, where there is none, the active one. */
extern Snapshot catalog_newest_snapshot(void);

#endif							/* PG_REACTIONS_CATALOG_H */
