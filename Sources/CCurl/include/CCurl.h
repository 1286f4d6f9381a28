/*
 * Typed wrappers for the few variadic libcurl calls that we use: Swift cannot call a variadic C function, and libcurl's macros are
 * too complex for the importer. One function per type of option.
 */
#pragma once
#include <curl/curl.h>

static inline CURLcode
ccurl_setopt_long(CURL *handle, CURLoption option, long value)
{
	return curl_easy_setopt(handle, option, value);
}

static inline CURLcode
ccurl_setopt_int64(CURL *handle, CURLoption option, curl_off_t value)
{
	return curl_easy_setopt(handle, option, value);
}

static inline CURLcode
ccurl_setopt_string(CURL *handle, CURLoption option, const char *value)
{
	return curl_easy_setopt(handle, option, value);
}

static inline CURLcode
ccurl_setopt_pointer(CURL *handle, CURLoption option, void *value)
{
	return curl_easy_setopt(handle, option, value);
}

static inline CURLcode
ccurl_setopt_list(CURL *handle, CURLoption option, struct curl_slist *value)
{
	return curl_easy_setopt(handle, option, value);
}

typedef size_t (*ccurl_data_callback)(char *bytes, size_t size, size_t count, void *context);

static inline CURLcode
ccurl_setopt_callback(CURL *handle, CURLoption option, ccurl_data_callback callback)
{
	return curl_easy_setopt(handle, option, callback);
}

typedef int (*ccurl_socket_callback)(void *context, curl_socket_t socket, curlsocktype purpose);

static inline CURLcode
ccurl_setopt_socket_callback(CURL *handle, CURLoption option, ccurl_socket_callback callback)
{
	return curl_easy_setopt(handle, option, callback);
}

static inline CURLcode
ccurl_getinfo_long(CURL *handle, CURLINFO info, long *value)
{
	return curl_easy_getinfo(handle, info, value);
}

static inline CURLMcode
ccurl_multi_setopt_pointer(CURLM *handle, CURLMoption option, void *value)
{
	return curl_multi_setopt(handle, option, value);
}

typedef int (*ccurl_watch_callback)(CURL *easy, curl_socket_t socket, int what, void *context, void *socket_context);

static inline CURLMcode
ccurl_multi_setopt_watch_callback(CURLM *handle, ccurl_watch_callback callback)
{
	return curl_multi_setopt(handle, CURLMOPT_SOCKETFUNCTION, callback);
}
