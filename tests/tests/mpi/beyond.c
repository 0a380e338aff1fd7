/* What ranks of Open MPI's say to all of the job by PMIx, beyond what MPI does.
 *
 *   beyond events     rank 0 tells of three events, the second of which is for the last rank only; who hears one says so
 *   beyond query      every rank asks which name spaces there are, and for what is not served
 *   beyond group      all ranks make a group, twice, and undo it; each says whether all have one number, another one each time
 */
#include "raw_pmix.h"

#include <mpi.h>

#include <semaphore.h>
#include <string.h>

enum { BOOL = 1, DATA_ARRAY = 39, PROC = 22, RANGE_NAMESPACE = 3, RANGE_GLOBAL = 5, RANGE_CUSTOM = 6 };
enum { EVENT = -3100, ACTION_COMPLETE = -331 };

typedef struct {
	uint16_t type;
	size_t len;
	void *start;
} array_t;

typedef struct {
	char **keys;
	info_t *qualifiers;
	size_t qualifier_count;
} query_t;

typedef void (*heard_t)(int status, info_t *infos, size_t count, done_t done, void *own, void *cookie);

static sem_t called;
static char heard[1024];
static int status_of_last;
static char text_of_last[1024];

static void is_done(int status, void *cookie)
{
	(void)cookie;
	status_of_last = status;
	sem_post(&called);
}

static void registered(int status, size_t id, void *cookie)
{
	(void)id, (void)cookie;
	status_of_last = status;
	sem_post(&called);
}

/* The info that this program adds is the last one's text. */
static void hear(size_t id, int status, const proc_t *source, info_t *infos, size_t count, info_t *results, size_t more,
		 heard_t next, void *cookie)
{
	(void)id, (void)results, (void)more;
	for (size_t each = 0; each < count; each++)
		if (strcmp(infos[each].key, "beyond") == 0 && status == EVENT) {
			size_t at = strlen(heard);
			snprintf(heard + at, sizeof heard - at, " %s from %u", infos[each].value.data.text, source->rank);
			sem_post(&called);
		}
	next(ACTION_COMPLETE, NULL, 0, NULL, NULL, cookie);
}

static void notify(const proc_t *self, uint8_t range, const char *text, proc_t *to)
{
	int (*notify)(int, const proc_t *, uint8_t, info_t *, size_t, done_t, void *) = function("PMIx_Notify_event");
	/* Open MPI has a handler of its own for whatever is not marked, and ends the job. */
	info_t infos[3] = {{.key = "beyond", .value.type = STRING},
			   {.key = "pmix.evnondef", .value.type = BOOL},
			   {.key = "pmix.evrange", .value.type = DATA_ARRAY}};
	array_t array = {PROC, 1, to}, *at = &array;

	infos[0].value.data.text = (char *)text;
	infos[1].value.data.room[0] = 1;
	memcpy(&infos[2].value.data, &at, sizeof at);
	expect(notify(EVENT, self, range, infos, to ? 3 : 2, is_done, NULL), "PMIx_Notify_event");
	sem_wait(&called);
	expect(status_of_last, "PMIx_Notify_event, in the end");
}

static void events(const proc_t *self, int rank, int size)
{
	int (*add)(int *, size_t, info_t *, size_t, void *, void *, void *) = function("PMIx_Register_event_handler");
	int code = EVENT, expected = rank == size - 1 ? 3 : 2;
	proc_t last = *self;

	if (rank != 0) {
		add(&code, 1, NULL, 0, (void *)hear, (void *)registered, NULL);
		sem_wait(&called);
		expect(status_of_last, "PMIx_Register_event_handler");
	}
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 0) {
		last.rank = size - 1;
		notify(self, RANGE_GLOBAL, "one", NULL);
		notify(self, RANGE_CUSTOM, "two", &last);
		notify(self, RANGE_NAMESPACE, "three", NULL);
	} else {
		while (expected--)
			sem_wait(&called);
		printf("rank %d:%s\n", rank, heard);
	}
}

static void answered(int status, info_t *infos, size_t count, void *cookie, void *release, void *more)
{
	(void)cookie;
	status_of_last = status;
	text_of_last[0] = 0;
	if (count > 0 && infos[0].value.type == STRING)
		snprintf(text_of_last, sizeof text_of_last, "%s", infos[0].value.data.text);
	if (release)
		((void (*)(void *))release)(more);
	sem_post(&called);
}

static int ask(const char *key)
{
	int (*ask)(query_t *, size_t, info_done_t, void *) = function("PMIx_Query_info_nb");
	char *keys[2] = {(char *)key, NULL};
	query_t query = {keys, NULL, 0};
	int status = ask(&query, 1, answered, NULL);

	if (status != 0)
		return status;
	sem_wait(&called);
	return status_of_last;
}

static void query(const proc_t *self, int rank)
{
	int names = ask("pmix.qry.ns"), is_own = strcmp(text_of_last, self->nspace) == 0;
	int table = ask("pmix.qry.ptable");

	printf("rank %d: name spaces %d, own %d, process table %d\n", rank, names, is_own, table);
}

static void group(const proc_t *self, int rank, int size)
{
	int (*make)(const char *, const proc_t *, size_t, const info_t *, size_t, info_t **, size_t *) =
		function("PMIx_Group_construct");
	int (*undo)(const char *, const info_t *, size_t) = function("PMIx_Group_destruct");
	info_t number = {.key = "pmix.grp.actxid", .value.type = 1}, *results;
	unsigned long ids[2] = {0, 0}, least[2], most[2];
	proc_t *members = calloc(size, sizeof *members);
	size_t count;
	int same;

	number.value.data.room[0] = 1;
	for (int each = 0; each < size; each++) {
		members[each] = *self;
		members[each].rank = each;
	}
	for (int round = 0; round < 2; round++) {
		results = NULL, count = 0;
		expect(make("beyond", members, size, &number, 1, &results, &count), "PMIx_Group_construct");
		for (size_t each = 0; each < count; each++)
			if (strcmp(results[each].key, "pmix.grp.ctxid") == 0)
				memcpy(&ids[round], &results[each].value.data, sizeof ids[round]);
		expect(undo("beyond", NULL, 0), "PMIx_Group_destruct");
	}
	MPI_Allreduce(ids, least, 2, MPI_UNSIGNED_LONG, MPI_MIN, MPI_COMM_WORLD);
	MPI_Allreduce(ids, most, 2, MPI_UNSIGNED_LONG, MPI_MAX, MPI_COMM_WORLD);
	same = least[0] == most[0] && least[1] == most[1];
	printf("rank %d: same %d, other %d, none %d\n", rank, same, ids[0] != ids[1], ids[0] == 0 || ids[1] == 0);
}

int main(int argc, char **argv)
{
	int rank, size;
	proc_t self;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	sem_init(&called, 0, 0);
	expect(((int (*)(proc_t *, info_t *, size_t))function("PMIx_Init"))(&self, NULL, 0), "PMIx_Init");
	if (strcmp(argv[1], "events") == 0)
		events(&self, rank, size);
	else if (strcmp(argv[1], "query") == 0)
		query(&self, rank);
	else
		group(&self, rank, size);
	fflush(stdout);
	MPI_Barrier(MPI_COMM_WORLD);
	((int (*)(const info_t *, size_t))function("PMIx_Finalize"))(NULL, 0);
	MPI_Finalize();
	return 0;
}
