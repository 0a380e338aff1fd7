/* An MPI program: checks an all_reduce and an all_to_all of several lengths. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int wrong;

static void expect(double found, double wanted, const char *what, int len)
{
	if (found != wanted && wrong++ < 5)
		fprintf(stderr, "%s of %d: %g, not %g\n", what, len, found, wanted);
}

int main(int argc, char **argv)
{
	int rank, size, len, i, peer;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	for (len = 1; len <= 1 << 18; len *= 8) {
		double *ours = malloc(len * size * sizeof(double));
		double *theirs = malloc(len * size * sizeof(double));

		for (i = 0; i < len; i++)
			ours[i] = rank + i;
		MPI_Allreduce(ours, theirs, len, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
		for (i = 0; i < len; i++)
			expect(theirs[i], size * (size - 1) / 2.0 + (double)i * size, "all_reduce", len);
		for (i = 0; i < len * size; i++)
			ours[i] = rank * 1e6 + i;
		MPI_Alltoall(ours, len, MPI_DOUBLE, theirs, len, MPI_DOUBLE, MPI_COMM_WORLD);
		for (peer = 0; peer < size; peer++)
			for (i = 0; i < len; i++)
				expect(theirs[peer * len + i], peer * 1e6 + rank * len + i, "all_to_all", len);
		free(ours);
		free(theirs);
	}
	MPI_Allreduce(MPI_IN_PLACE, &wrong, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	if (rank == 0)
		printf("%d ranks, %d wrong\n", size, wrong);
	MPI_Finalize();
	return wrong != 0;
}
