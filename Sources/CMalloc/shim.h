/* glibc's malloc.h, which is not in Swift's module Glibc. */
#pragma once
#include <malloc.h>
