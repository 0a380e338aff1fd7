/*
 * mpi_perf: times MPI's collectives the way efa-perf times ours, so that the two can stand in one table.
 *
 *     mpi_perf COLLECTIVE -b FIRST -e LAST -f FACTOR -n ITERS -w WARMUP -c CHECKS
 *
 * Is given a collective of COLLECTIVES below and sizes in bytes, with nccl-tests' meaning of size: the whole vector,
 * which for all_gather is the total output and for reduce_scatter the total input. Rank 0 prints one JSON object per
 * size: {"size_bytes":…,"time_us":…,"wrong":…}. Elements are f32, the reduction is the sum, the root is 0.
 *
 * A time is that of ITERS calls back to back from a barrier on, divided by their number, as the mean over ranks. Each
 * call takes the next window of buffers that are as long as LAST. Warm-up is one pass over all sizes before any timing
 * and one call before each. Checking is apart from timing: fresh inputs, a poisoned result with guards around it, one
 * call, every element compared. Exits 1 when an element was wrong, 2 when the command line is.
 *
 * Cannot: measure in place (but for broadcast, which has no other form), other types, or sizes over 2^31 elements.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD_LEN = 4096, PERIOD = 8191 };
static const float POISON = -12345.0f;

struct effort {
    size_t first_bytes, last_bytes, factor;
    long iters, warmup_iters, check_iters;
};

struct run {
    int rank, world_size;
    float *input, *output; /* each with GUARD_LEN elements on both sides */
    size_t len_max;
    unsigned seed;
};

/* One call on `len` elements by nccl-tests' count. */
typedef void collective_fn(const float *input, float *output, size_t len, int world_size);

static void all_reduce(const float *input, float *output, size_t len, int world_size) {
    (void)world_size;
    MPI_Allreduce(input, output, (int)len, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

static void broadcast(const float *input, float *output, size_t len, int world_size) {
    (void)input, (void)world_size;
    MPI_Bcast(output, (int)len, MPI_FLOAT, 0, MPI_COMM_WORLD);
}

static void reduce(const float *input, float *output, size_t len, int world_size) {
    (void)world_size;
    MPI_Reduce(input, output, (int)len, MPI_FLOAT, MPI_SUM, 0, MPI_COMM_WORLD);
}

static void all_gather(const float *input, float *output, size_t len, int world_size) {
    int share = (int)(len / world_size);
    MPI_Allgather(input, share, MPI_FLOAT, output, share, MPI_FLOAT, MPI_COMM_WORLD);
}

static void reduce_scatter(const float *input, float *output, size_t len, int world_size) {
    MPI_Reduce_scatter_block(input, output, (int)(len / world_size), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

static void barrier(const float *input, float *output, size_t len, int world_size) {
    (void)input, (void)output, (void)len, (void)world_size;
    MPI_Barrier(MPI_COMM_WORLD);
}

static const struct collective {
    const char *name;
    collective_fn *call;
    int has_blocks; /* `len` is a block per rank */
} COLLECTIVES[] = {
    {"all_reduce", all_reduce, 0}, {"broadcast", broadcast, 0},           {"reduce", reduce, 0},
    {"all_gather", all_gather, 1}, {"reduce_scatter", reduce_scatter, 1}, {"barrier", barrier, 0},
};

/* A multiple of 1/16 that every order of a few summands adds up exactly. */
static float given(unsigned seed, int rank, size_t index) {
    unsigned bits = seed * 2654435761u + (unsigned)rank * 40503u + (unsigned)(index % PERIOD) * 2246822519u;
    bits ^= bits >> 15;
    bits *= 2246822519u;
    bits ^= bits >> 13;
    return (float)((int)(bits % 4095) - 2047) / 16.0f;
}

static float given_sum(const struct run *run, size_t index) {
    float sum = 0;
    for (int rank = 0; rank < run->world_size; rank++) sum += given(run->seed, rank, index);
    return sum;
}

static void fill_inputs(struct run *run) {
    for (size_t i = 0; i < run->len_max; i++) {
        run->input[GUARD_LEN + i] = run->output[GUARD_LEN + i] = given(run->seed, run->rank, i);
    }
}

static void call(struct run *run, const struct collective *collective, size_t len, long iter) {
    size_t windows = len == 0 ? 1 : run->len_max / len;
    size_t start = GUARD_LEN + len * ((size_t)iter % (windows == 0 ? 1 : windows));
    collective->call(run->input + start, run->output + start, len, run->world_size);
}

static double time_us(struct run *run, const struct collective *collective, size_t len, long iters) {
    fill_inputs(run);
    call(run, collective, len, 0);
    MPI_Barrier(MPI_COMM_WORLD);
    double start = MPI_Wtime();
    for (long iter = 0; iter < iters; iter++) call(run, collective, len, iter);
    double mine = (MPI_Wtime() - start) / (double)iters * 1e6, sum = 0;
    MPI_Allreduce(&mine, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    return sum / run->world_size;
}

/* How many elements the result has on this rank, and what element `i` of it should be. */
static size_t result_len(const struct run *run, const char *name, size_t len) {
    if (strcmp(name, "barrier") == 0) return 0;
    if (strcmp(name, "reduce") == 0) return run->rank == 0 ? len : 0;
    if (strcmp(name, "reduce_scatter") == 0) return len / run->world_size;
    return len;
}

static float expected(const struct run *run, const char *name, size_t len, size_t i) {
    size_t share = len / run->world_size;
    if (strcmp(name, "broadcast") == 0) return given(run->seed, 0, i);
    if (strcmp(name, "all_gather") == 0) return given(run->seed, (int)(i / share), i % share);
    if (strcmp(name, "reduce_scatter") == 0) return given_sum(run, (size_t)run->rank * share + i);
    return given_sum(run, i);
}

/* Wrong elements and broken guards over all ranks. */
static long long count_wrong(struct run *run, const struct collective *collective, size_t len, long checks) {
    long long wrong = 0, total = 0;
    for (long check = 0; check < checks; check++) {
        run->seed++;
        for (size_t i = 0; i < len + 2 * GUARD_LEN; i++) run->output[i] = POISON;
        for (size_t i = 0; i < len; i++) run->input[GUARD_LEN + i] = given(run->seed, run->rank, i);
        if (strcmp(collective->name, "broadcast") == 0 && run->rank == 0) {
            for (size_t i = 0; i < len; i++) run->output[GUARD_LEN + i] = given(run->seed, 0, i);
        }
        MPI_Barrier(MPI_COMM_WORLD);
        call(run, collective, len, 0);
        size_t result = result_len(run, collective->name, len);
        for (size_t i = 0; i < GUARD_LEN; i++) {
            wrong += run->output[i] != POISON;
            wrong += run->output[GUARD_LEN + len + i] != POISON;
        }
        for (size_t i = 0; i < result; i++) {
            wrong += run->output[GUARD_LEN + i] != expected(run, collective->name, len, i);
        }
    }
    MPI_Allreduce(&wrong, &total, 1, MPI_LONG_LONG, MPI_SUM, MPI_COMM_WORLD);
    return total;
}

static long long sweep(struct run *run, const struct collective *collective, const struct effort *effort) {
    long long wrong_in_all = 0;
    fill_inputs(run);
    for (size_t bytes = effort->first_bytes; bytes <= effort->last_bytes; bytes *= 2) {
        for (long iter = 0; iter < effort->warmup_iters; iter++) call(run, collective, bytes / sizeof(float), iter);
    }
    for (size_t bytes = effort->first_bytes; bytes <= effort->last_bytes; bytes *= effort->factor) {
        size_t len = bytes / sizeof(float);
        if (collective->has_blocks) len = len / run->world_size * run->world_size;
        if (len == 0) continue;
        double us = time_us(run, collective, len, effort->iters);
        long long wrong = count_wrong(run, collective, len, effort->check_iters);
        wrong_in_all += wrong;
        if (run->rank == 0) {
            printf("{\"size_bytes\":%zu,\"time_us\":%.3f,\"wrong\":%lld}\n", len * sizeof(float), us, wrong);
            fflush(stdout);
        }
    }
    return wrong_in_all;
}

static int usage(int rank) {
    if (rank == 0) fprintf(stderr, "mpi_perf: COLLECTIVE -b FIRST -e LAST -f FACTOR -n ITERS -w WARMUP -c CHECKS\n");
    MPI_Finalize();
    return 2;
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    struct run run = {.seed = 1};
    MPI_Comm_rank(MPI_COMM_WORLD, &run.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &run.world_size);

    const struct collective *collective = NULL;
    for (size_t i = 0; argc > 1 && i < sizeof COLLECTIVES / sizeof *COLLECTIVES; i++) {
        if (strcmp(argv[1], COLLECTIVES[i].name) == 0) collective = &COLLECTIVES[i];
    }
    struct effort effort = {8, 8, 2, 20, 1, 1};
    for (int i = 2; i + 1 < argc; i += 2) {
        long value = atol(argv[i + 1]);
        if (strcmp(argv[i], "-b") == 0) effort.first_bytes = (size_t)value;
        else if (strcmp(argv[i], "-e") == 0) effort.last_bytes = (size_t)value;
        else if (strcmp(argv[i], "-f") == 0) effort.factor = (size_t)value;
        else if (strcmp(argv[i], "-n") == 0) effort.iters = value;
        else if (strcmp(argv[i], "-w") == 0) effort.warmup_iters = value;
        else if (strcmp(argv[i], "-c") == 0) effort.check_iters = value;
        else return usage(run.rank);
    }
    if (!collective || effort.factor < 2 || effort.first_bytes == 0 || effort.iters < 1) return usage(run.rank);

    run.len_max = effort.last_bytes / sizeof(float);
    run.input = malloc((run.len_max + 2 * GUARD_LEN) * sizeof(float));
    run.output = malloc((run.len_max + 2 * GUARD_LEN) * sizeof(float));
    if (!run.input || !run.output) MPI_Abort(MPI_COMM_WORLD, 3);
    long long wrong = sweep(&run, collective, &effort);
    free(run.input);
    free(run.output);
    MPI_Finalize();
    return wrong != 0;
}
