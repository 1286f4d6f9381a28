/* libcurl, loaded when it is first used. */
#ifndef PG_REACTIONS_CURL_H
#define PG_REACTIONS_CURL_H

/* Loads libcurl, in a server that preloads, for the backends that it forks. False if there is none. */
extern bool curl_load(void);

#endif							/* PG_REACTIONS_CURL_H */
