/* Settings of the extension: reactions.* */
#ifndef PG_REACTIONS_GUC_H
#define PG_REACTIONS_GUC_H

#include "compat.h"

typedef enum OnUnavailable
{
	ON_UNAVAILABLE_ERROR,
	ON_UNAVAILABLE_NULL
} OnUnavailable;

extern int	on_unavailable;
extern int	max_keys_per_transaction;
extern int	commit_timeout_ms;
extern bool apply_at_commit;
extern double compare_share;

extern void guc_init(void);

/* Whether reads may ask ClickHouse. */
extern bool guc_has_clickhouse(void);

/* Passes the settings and secrets to the Swift half if anything changed since the last call. Raises if the secrets cannot be read. */
extern void guc_configure(void);

/* The same, but returns false instead: a write does not need Redis. */
extern bool guc_try_configure(void);

#endif							/* PG_REACTIONS_GUC_H */
