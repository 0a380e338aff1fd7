/* What is used of PMIx, as every release since 3 has it: no header of it comes with Open MPI's packages. Its functions are
 * found in whatever the program's libmpi has brought.
 */
#define _GNU_SOURCE

#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
	char nspace[256];
	uint32_t rank;
} proc_t;

typedef struct {
	uint16_t type;
	union {
		struct {
			char *start;
			size_t len;
		} bytes;
		char *text;
		char room[24];
	} data;
} value_t;

typedef struct {
	char key[512];
	uint32_t flags;
	value_t value;
} info_t;

typedef void (*done_t)(int status, void *cookie);
typedef void (*info_done_t)(int status, info_t *infos, size_t count, void *cookie, void *release, void *more);

enum { STRING = 3, BYTE_OBJECT = 27, GLOBAL = 3 };

static void *function(const char *name)
{
	void *found = dlsym(RTLD_DEFAULT, name);

	if (!found) {
		fprintf(stderr, "no %s: %s\n", name, dlerror());
		exit(2);
	}
	return found;
}

static void expect(int status, const char *call)
{
	if (status != 0) {
		fprintf(stderr, "%s: %d\n", call, status);
		exit(2);
	}
}
