/* MPI sessions without MPI_Init: a communicator of all ranks, made of a group, then one of the even and one of the odd ranks
 * at the same time, then all of it again in a second session. With an argument, one session: ranks of Open MPI 5.0.11 end by
 * a signal within the second one, under its own launcher too.
 */
#include <mpi.h>

#include <stdio.h>

static int wrong;

/* Whether a sum over all of the communicator's ranks is that of their numbers in the world. */
static void check(MPI_Comm comm, int number, int expected)
{
	int sum = 0;

	MPI_Allreduce(&number, &sum, 1, MPI_INT, MPI_SUM, comm);
	wrong += sum != expected;
}

static void once(const char *tag)
{
	int rank, size, mine = 0, expected = 0, count = 0, members[64];
	MPI_Session session;
	MPI_Group all, half;
	MPI_Comm comm;

	MPI_Session_init(MPI_INFO_NULL, MPI_ERRORS_ARE_FATAL, &session);
	MPI_Group_from_session_pset(session, "mpi://WORLD", &all);
	MPI_Comm_create_from_group(all, tag, MPI_INFO_NULL, MPI_ERRORS_ARE_FATAL, &comm);
	MPI_Comm_rank(comm, &rank);
	MPI_Comm_size(comm, &size);
	check(comm, rank, size * (size - 1) / 2);
	for (int each = rank % 2; each < size; each += 2) {
		members[count++] = each;
		expected += each;
	}
	MPI_Group_incl(all, count, members, &half);
	MPI_Comm_free(&comm);
	MPI_Comm_create_from_group(half, rank % 2 ? "odd" : "even", MPI_INFO_NULL, MPI_ERRORS_ARE_FATAL, &comm);
	MPI_Comm_rank(comm, &mine);
	wrong += members[mine] != rank;
	check(comm, rank, expected);
	MPI_Comm_free(&comm);
	MPI_Group_free(&half);
	MPI_Group_free(&all);
	MPI_Session_finalize(&session);
	if (tag[0] == 's')
		printf("rank %d of %d, %d wrong\n", rank, size, wrong);
}

int main(int argc, char **argv)
{
	(void)argv;
	if (argc == 1)
		once("first");
	once("second");
	return wrong != 0;
}
