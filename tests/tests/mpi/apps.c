/* Says which of the job's programs this rank runs, by MPI, and what its PMIx server says of every rank: its program, and its
 * number among that program's ranks. With Open MPI 5 also how many ranks each program has, and the first of each.
 */
#include "raw_pmix.h"

#include <mpi.h>

#include <string.h>

enum { UINT32 = 14, PROC_RANK = 40 };

/* A number that the server has told about a rank of this one's world. */
static uint32_t of(const proc_t *self, uint32_t rank, const char *key, uint16_t type)
{
	int (*get)(const proc_t *, const char *, const info_t *, size_t, value_t **) = function("PMIx_Get");
	proc_t proc = *self;
	value_t *value = NULL;
	uint32_t number;

	proc.rank = rank;
	expect(get(&proc, key, NULL, 0, &value), key);
	if (value->type != type) {
		fprintf(stderr, "%s is of type %d\n", key, value->type);
		exit(2);
	}
	memcpy(&number, &value->data, sizeof number);
	free(value);
	return number;
}

static const char *known(const char *key, char *value)
{
	int found = 0;

	MPI_Info_get(MPI_INFO_ENV, key, MPI_MAX_INFO_VAL - 1, value, &found);
	return found ? value : "none";
}

int main(int argc, char **argv)
{
	char line[1024], sizes[MPI_MAX_INFO_VAL], firsts[MPI_MAX_INFO_VAL];
	int rank, size, *app = NULL, found = 0, at = 0;
	proc_t self;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_APPNUM, &app, &found);
	expect(((int (*)(proc_t *, info_t *, size_t))function("PMIx_Init"))(&self, NULL, 0), "PMIx_Init");
	at += snprintf(line + at, sizeof line - at, "rank %d runs %d; all:", rank, found ? *app : -1);
	for (int each = 0; each < size; each++)
		at += snprintf(line + at, sizeof line - at, " %u/%u", of(&self, each, "pmix.appnum", UINT32),
			       of(&self, each, "pmix.apprank", PROC_RANK));
	snprintf(line + at, sizeof line - at, "; sizes %s; firsts %s", known("ompi_np", sizes),
		 known("ompi_first_rank", firsts));
	puts(line);
	fflush(stdout);
	((int (*)(const info_t *, size_t))function("PMIx_Finalize"))(NULL, 0);
	MPI_Finalize();
	return 0;
}
