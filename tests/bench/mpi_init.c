/* An MPI program that does nothing: each rank says how many seconds passed from MPI_Init to MPI_Finalize. */
#include <mpi.h>
#include <stdio.h>
#include <time.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	double start = now();
	int size;

	MPI_Init(&argc, &argv);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPI_Finalize();
	printf("%d ranks %.6f s\n", size, now() - start);
	return 0;
}
