/* An MPI program: checks that it is one world, on as many nodes as it is told, and does what its arguments say.
 *
 *   world NODES                  exits with 0 if all is right
 *   world NODES abort RANK CODE  that rank calls MPI_Abort
 *   world NODES crash RANK       that rank dies of SIGSEGV
 *   world NODES leave RANK       that rank exits with 0 and without MPI_Finalize
 *   world NODES absent RANK      that rank exits with 0 and without MPI_Init
 *   world NODES wait RANK        that rank waits for a minute before MPI_Finalize
 *   world NODES names            a name is published by the last rank and looked up by the first
 *   world NODES large            the same, and each rank sends 64 MiB in an all_to_all
 */
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int wrong;

static void expect(int is_right, const char *what)
{
	if (!is_right && wrong++ < 5)
		fprintf(stderr, "wrong: %s\n", what);
}

static void sum(int rank, int size)
{
	enum { LEN = 1 << 18 };
	double *ours = malloc(LEN * sizeof(double)), *all = malloc(LEN * sizeof(double));
	int i;

	for (i = 0; i < LEN; i++)
		ours[i] = rank + i;
	MPI_Allreduce(ours, all, LEN, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
	for (i = 0; i < LEN; i++)
		expect(all[i] == size * (size - 1) / 2.0 + (double)i * size, "all_reduce of 2 MiB");
	free(ours);
	free(all);
}

/* From the last rank, so that no rank has by itself what it is to get. */
static void broadcast(int rank, int size)
{
	enum { LEN = 100000 };
	int *all = malloc(LEN * sizeof(int));
	int i;

	for (i = 0; i < LEN; i++)
		all[i] = rank == size - 1 ? 3 * i + size : -1;
	MPI_Bcast(all, LEN, MPI_INT, size - 1, MPI_COMM_WORLD);
	for (i = 0; i < LEN; i++)
		expect(all[i] == 3 * i + size, "broadcast");
	free(all);
}

/* Each rank sends `len` numbers to each, over shared memory or between nodes. */
static void exchange(unsigned rank, unsigned size, unsigned len)
{
	unsigned *ours = malloc(sizeof(int) * len * size), *theirs = malloc(sizeof(int) * len * size);
	unsigned from, i;

	for (i = 0; i < len * size; i++)
		ours[i] = rank * len * size + i;
	MPI_Alltoall(ours, len, MPI_UNSIGNED, theirs, len, MPI_UNSIGNED, MPI_COMM_WORLD);
	for (from = 0; from < size; from++)
		for (i = 0; i < len; i++)
			expect(theirs[from * len + i] == from * len * size + rank * len + i, "all_to_all");
	free(ours);
	free(theirs);
}

static int count_nodes(void)
{
	MPI_Comm node;
	int rank_on_node, leads, nodes;

	MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
	MPI_Comm_rank(node, &rank_on_node);
	leads = rank_on_node == 0;
	MPI_Allreduce(&leads, &nodes, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	MPI_Comm_free(&node);
	return nodes;
}

/* The port is a name like another: the wheel's MPICH cannot open one. */
static void exchange_names(int rank, int size)
{
	char found[MPI_MAX_PORT_NAME] = "";

	if (rank == size - 1)
		MPI_Publish_name("service", MPI_INFO_NULL, "tag#0$description#last$");
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 0) {
		MPI_Lookup_name("service", MPI_INFO_NULL, found);
		expect(strcmp(found, "tag#0$description#last$") == 0, "the port of a published name");
	}
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == size - 1)
		MPI_Unpublish_name("service", MPI_INFO_NULL, "tag#0$description#last$");
}

int main(int argc, char **argv)
{
	const char *deed = argc > 2 ? argv[2] : "";
	int doer = argc > 3 ? atoi(argv[3]) : -1;
	int rank, size, level, nodes;

	if (strcmp(deed, "absent") == 0 && atoi(getenv("PMI_RANK")) == doer)
		return 0;
	MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	sum(rank, size);
	broadcast(rank, size);
	exchange(rank, size, 1000);
	nodes = count_nodes();
	expect(nodes == atoi(argv[1]), "the number of nodes");
	if (strcmp(deed, "names") == 0 || strcmp(deed, "large") == 0)
		exchange_names(rank, size);
	if (strcmp(deed, "large") == 0)
		exchange(rank, size, (64 << 20) / sizeof(int) / size);
	MPI_Allreduce(MPI_IN_PLACE, &wrong, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	if (rank == 0)
		printf("world of %d ranks on %d nodes, %d wrong\n", size, nodes, wrong);
	fflush(stdout);
	if (rank == doer) {
		if (strcmp(deed, "abort") == 0)
			MPI_Abort(MPI_COMM_WORLD, atoi(argv[4]));
		if (strcmp(deed, "crash") == 0) {
			/* A library that Intel MPI opens handles it, and exits with 1. */
			signal(SIGSEGV, SIG_DFL);
			raise(SIGSEGV);
		}
		if (strcmp(deed, "leave") == 0)
			_Exit(0);
		if (strcmp(deed, "wait") == 0)
			sleep(60);
	}
	MPI_Finalize();
	return wrong != 0;
}
