/* What the functions that read have in common. */
#ifndef PG_REACTIONS_FUNCTIONS_H
#define PG_REACTIONS_FUNCTIONS_H

#include "compat.h"

#include "CReactionsBoundary.h"
#include "fmgr.h"
#include "nodes/execnodes.h"
#include "utils/array.h"

/* Begins a result of many rows, which the executor materializes. */
extern ReturnSetInfo *begin_rows(FunctionCallInfo fcinfo);

/* The array's distinct ids in the order of their first occurrence; raises for what cannot be a list of ids. */
extern int64 *distinct_ids(ArrayType *array, size_t *count);

/* Raises what a read failed with, unless it means "unknown" and the setting wants null for that. */
extern void unknown_or_raise(const rx_error *error);

#endif							/* PG_REACTIONS_FUNCTIONS_H */
