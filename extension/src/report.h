/* The one place where a failure of the Swift half becomes an error of PostgreSQL. */
#ifndef PG_REACTIONS_REPORT_H
#define PG_REACTIONS_REPORT_H

#include "compat.h"

#include "CReactionsBoundary.h"

/* Whether the failure means "unknown" (a server cannot be asked), which reactions.on_unavailable may turn into null. */
extern bool report_is_unavailable(const rx_error *error);

extern void report_raise(const rx_error *error) pg_attribute_noreturn();

#endif							/* PG_REACTIONS_REPORT_H */
