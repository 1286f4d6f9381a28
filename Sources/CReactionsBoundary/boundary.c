/* The contract is a header; SwiftPM wants a source file in a C target. */
#include "CReactionsBoundary.h"

_Static_assert(sizeof(rx_event) == 32, "rx_event is passed as an array between two compilers");
