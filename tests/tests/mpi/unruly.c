/* A rank of Open MPI's that does to its PMIx server what no library does.
 *
 *   unruly MODE RANK          that rank does what MODE says, the others wait for it in a fence
 *   unruly gate FILE          all meet, write "there", meet again when they have read a line of the file, write "through"; a
 *                             folder's file is that of the rank
 *
 * MODE: leave, die      ends with 0, or is killed, after PMIx_Init
 *       die-within      is killed within a fence that its server has heard of
 *       announce        begins a message of 1 GiB to its server, and goes on like that
 *       nonsense        writes what is no message
 *       puts            makes the server keep ever more, until it is no longer heard
 *       puts-leave      the same, and then ends with 3
 *       asks            asks again and again for what is not served, and waits for no answer
 */
#include "raw_pmix.h"

#include <mpi.h>

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* The end of another rank may be told before the launcher ends this one: it leaves the first word to that one. */
static void fence(void)
{
	if (((int (*)(const proc_t *, size_t, const info_t *, size_t))function("PMIx_Fence"))(NULL, 0, NULL, 0) != 0)
		for (;;)
			pause();
}

static void finalize(void)
{
	((int (*)(const info_t *, size_t))function("PMIx_Finalize"))(NULL, 0);
}

static void nothing(int status, void *cookie)
{
	(void)status, (void)cookie;
}

/* The server has handled what the rank said before when it answers this. */
static void be_heard(void)
{
	info_t info = {.key = "unruly"};
	info.value.type = STRING;
	info.value.data.text = "there";
	expect(((int (*)(const info_t *, size_t))function("PMIx_Publish"))(&info, 1), "PMIx_Publish");
}

static void die_within(void)
{
	expect(((int (*)(const proc_t *, size_t, const info_t *, size_t, done_t, void *))function("PMIx_Fence_nb"))(
		       NULL, 0, NULL, 0, nothing, NULL),
	       "PMIx_Fence_nb");
	be_heard();
	raise(SIGKILL);
}

/* A connection to the server, at the address that a rank finds in its environment: NAME.RANK;tcp4://HOST:PORT */
static int connection(void)
{
	const char *uri = getenv("PMIX_SERVER_URI2"), *at = uri ? strstr(uri, "tcp4://") : NULL;
	struct sockaddr_in address = {.sin_family = AF_INET};
	char host[64] = "";
	int port = 0, sock = socket(AF_INET, SOCK_STREAM, 0);

	if (!at || sscanf(at, "tcp4://%63[^:]:%d", host, &port) != 2 || inet_pton(AF_INET, host, &address.sin_addr) != 1) {
		fprintf(stderr, "no server in PMIX_SERVER_URI2=%s\n", uri ? uri : "");
		exit(2);
	}
	address.sin_port = htons(port);
	if (connect(sock, (struct sockaddr *)&address, sizeof address) != 0) {
		perror("connect");
		exit(2);
	}
	return sock;
}

static void announce(void)
{
	/* pindex, tag, nbytes: as many as are never sent. */
	const uint32_t header[4] = {0, 0, 0, htonl(1 << 30)};

	for (int i = 0; i < 16; i++)
		if (write(connection(), header, i % 2 ? sizeof header : 3) < 0)
			perror("write");
}

static void nonsense(void)
{
	char page[4096];
	int i, sock;

	memset(page, 'x', sizeof page);
	signal(SIGPIPE, SIG_IGN);
	for (i = 0; i < 16; i++) {
		sock = connection();
		while (write(sock, page, sizeof page) > 0)
			;
	}
}

static void puts_on(void)
{
	int (*put)(uint8_t, const char *, value_t *) = function("PMIx_Put");
	int (*commit)(void) = function("PMIx_Commit");
	size_t len = 1 << 20;
	char *page = calloc(1, len), key[64];
	value_t value = {.type = BYTE_OBJECT, .data.bytes = {page, len}};
	int i, round;

	/* Under the same keys, so that it is the server that keeps what this rank says. */
	for (round = 0;; round++)
		for (i = 0; i < 16; i++) {
			snprintf(key, sizeof key, "unruly.%d.%d", round, i);
			if (put(GLOBAL, key, &value) != 0 || commit() != 0)
				return;
		}
}

static void ask_on(void)
{
	int (*ask)(int, info_t *, size_t, info_done_t, void *) = function("PMIx_Allocation_request_nb");
	static info_t info = {.key = "unruly", .value.type = STRING, .value.data.text = "more"};
	int i;

	/* The library takes the longer the more are open. */
	for (i = 0; i < 2000; i++)
		ask(1, &info, 1, (info_done_t)(void *)nothing, NULL);
	be_heard();
}

static int gate(int argc, char **argv, const char *place)
{
	char path[4096], line[16];
	struct stat found;
	int rank;
	FILE *gate;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	puts("there");
	fflush(stdout);
	if (stat(place, &found) == 0 && S_ISDIR(found.st_mode))
		snprintf(path, sizeof path, "%s/%d", place, rank);
	else
		snprintf(path, sizeof path, "%s", place);
	gate = fopen(path, "r");
	if (!gate || !fgets(line, sizeof line, gate))
		return 1;
	MPI_Barrier(MPI_COMM_WORLD);
	MPI_Finalize();
	puts("through");
	return 0;
}

int main(int argc, char **argv)
{
	const char *mode = argv[1];
	proc_t self;

	if (strcmp(mode, "gate") == 0)
		return gate(argc, argv, argv[2]);
	expect(((int (*)(proc_t *, info_t *, size_t))function("PMIx_Init"))(&self, NULL, 0), "PMIx_Init");
	if (self.rank != (uint32_t)atoi(argv[2])) {
		fence();
		fence();
		finalize();
		return 0;
	}
	if (strcmp(mode, "leave") == 0)
		_Exit(0);
	if (strcmp(mode, "die") == 0)
		raise(SIGKILL);
	if (strcmp(mode, "die-within") == 0)
		die_within();
	if (strcmp(mode, "announce") == 0)
		announce();
	if (strcmp(mode, "nonsense") == 0)
		nonsense();
	if (strncmp(mode, "puts", 4) == 0)
		puts_on();
	if (strcmp(mode, "puts-leave") == 0)
		return 3;
	if (strcmp(mode, "asks") == 0)
		ask_on();
	fence();
	fence();
	finalize();
	return 3;
}
