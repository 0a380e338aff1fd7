/* An MPI_Alltoall of 64 MiB per rank, checked. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOTAL_BYTES = 64 << 20 };

int main(int argc, char **argv) {
    int rank, size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    size_t each = TOTAL_BYTES / sizeof(int) / size, count = each * size;
    int *in = malloc(count * sizeof(int)), *out = malloc(count * sizeof(int));
    for (size_t i = 0; i < count; i++)
        in[i] = (int)(rank * 1000 + i / each);
    MPI_Alltoall(in, (int)each, MPI_INT, out, (int)each, MPI_INT, MPI_COMM_WORLD);
    long wrong = 0, all = 0;
    for (size_t i = 0; i < count; i++)
        wrong += out[i] != (int)(i / each * 1000 + rank);
    MPI_Reduce(&wrong, &all, 1, MPI_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("%d ranks, %ld wrong\n", size, all);
    MPI_Finalize();
    return 0;
}
