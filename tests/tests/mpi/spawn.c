/* Ranks that ask for more ranks, which run this program too.
 *
 *   spawn COUNT MODE [HOST]   MODE: meet, none (a program that there is not), wait (all wait when they have met), code (a child ends with 5)
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int wrong;

/* What both worlds do together; nobody may miss it. */
static void meet(MPI_Comm other, int is_child) {
    int own, others, all, rank, sum = 0, told = is_child ? -1 : 4711;
    MPI_Comm both;
    MPI_Comm_size(MPI_COMM_WORLD, &own);
    MPI_Comm_remote_size(other, &others);
    MPI_Intercomm_merge(other, is_child, &both);
    MPI_Comm_size(both, &all);
    MPI_Comm_rank(both, &rank);
    wrong += all != own + others;
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, both);
    wrong += sum != all * (all - 1) / 2;
    MPI_Bcast(&told, 1, MPI_INT, 0, both);
    wrong += told != 4711;
    int failed = 0;
    MPI_Reduce(&wrong, &failed, 1, MPI_INT, MPI_SUM, 0, both);
    if (rank == 0) {
        printf("worlds of %d and %d ranks, %d wrong\n", own, others, failed);
        fflush(stdout);
    }
    MPI_Comm_free(&both);
}

/* Outside of MPI, where it does not notice that another rank has ended. */
static void wait_outside(void) {
    puts("outside");
    fflush(stdout);
    for (;;)
        pause();
}

int main(int argc, char **argv) {
    int rank;
    MPI_Comm other;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_get_parent(&other);
    if (other != MPI_COMM_NULL) {
        const char *mode = argv[2];
        wrong += strcmp(argv[1], "a blank") != 0;
        meet(other, 1);
        if (strcmp(mode, "wait") == 0)
            wait_outside();
        MPI_Comm_disconnect(&other);
        MPI_Finalize();
        return strcmp(mode, "code") == 0 && rank == 0 ? 5 : wrong != 0;
    }
    char *args[] = {"a blank", argv[2], NULL};
    const char *program = strcmp(argv[2], "none") == 0 ? "/no/such/program" : argv[0];
    MPI_Info info = MPI_INFO_NULL;
    if (argc > 3) {
        MPI_Info_create(&info);
        MPI_Info_set(info, "host", argv[3]);
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
    int error = MPI_Comm_spawn(program, args, atoi(argv[1]), info, 0, MPI_COMM_WORLD, &other, MPI_ERRCODES_IGNORE);
    if (error != MPI_SUCCESS) {
        if (rank == 0)
            printf("refused\n");
        fflush(stdout);
        MPI_Finalize();
        return 0;
    }
    meet(other, 0);
    if (strcmp(argv[2], "wait") == 0)
        wait_outside();
    MPI_Comm_disconnect(&other);
    MPI_Finalize();
    return wrong != 0;
}
