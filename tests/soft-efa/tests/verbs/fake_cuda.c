/*
 * What stands for NVIDIA's driver on machines without one, with the real one's bad manners:
 *
 * - device memory has addresses that the processor cannot touch;
 * - nothing works without a current context, and contexts are per thread;
 * - copies are made when their stream is waited for, and not before;
 * - the default stream waits for what waits in it, and so would every copy that goes through it;
 * - memory of pools belongs to no context;
 * - while a graph is captured, calls of a thread that has not asked to be left out of it are refused, and spoil it;
 * - memory that was freed is nobody's.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201, NOT_READY = 600,
       CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
enum { ALLOCATIONS = 64, COPIES = 16, PRIMARY = 0x1000, CREATED = 0x2000 };

struct allocation { uint64_t address; size_t size; char *bytes; uint64_t context; int managed; };
struct copy { void *to; const void *from; size_t len; };
struct stream { uint64_t context; unsigned flags; struct copy copies[COPIES]; int count; };

static struct allocation allocations[ALLOCATIONS];
static int is_initialized, is_capturing, is_spoiled;
static uint64_t awaited_address;
static uint32_t awaited_value;
static __thread uint64_t stack[16];
static __thread int depth;
static __thread int capture_mode;

static uint64_t current(void) { return depth ? stack[depth - 1] : 0; }

static struct allocation *find(uint64_t address, size_t len)
{
    for (int i = 0; i < ALLOCATIONS; i++) {
        struct allocation *a = &allocations[i];
        if (a->size && address >= a->address && address - a->address < a->size &&
            len <= a->size - (address - a->address))
            return a;
    }
    return NULL;
}

static char *bytes_at(uint64_t address, size_t len)
{
    struct allocation *a = find(address, len);
    return a ? a->bytes + (address - a->address) : NULL;
}

static int is_refused(void)
{
    if (!is_initialized) return NOT_INITIALIZED;
    if (is_capturing && capture_mode != 2) {
        is_spoiled = 1;
        return CAPTURE_UNSUPPORTED;
    }
    return SUCCESS;
}

static int allocate(uint64_t *address, size_t size, uint64_t context, int managed)
{
    if (is_refused()) return is_refused();
    for (int i = 0; i < ALLOCATIONS; i++) {
        if (allocations[i].size) continue;
        int protection = managed ? PROT_READ | PROT_WRITE : PROT_NONE;
        void *place = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (place == MAP_FAILED) return INVALID_VALUE;
        *address = (uint64_t)place;
        allocations[i] = (struct allocation){ *address, size, managed ? place : calloc(1, size), context, managed };
        return SUCCESS;
    }
    return INVALID_VALUE;
}

int cuInit(unsigned flags) { (void)flags; is_initialized = 1; return SUCCESS; }
int cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
int cuDevicePrimaryCtxRetain(uint64_t *context, int device)
{
    if (device) return INVALID_VALUE;
    *context = PRIMARY;
    return is_refused();
}
int cuCtxCreate_v2(uint64_t *context, unsigned flags, int device)
{
    (void)flags; (void)device;
    *context = stack[depth++] = CREATED;
    return is_refused();
}
int cuCtxPushCurrent_v2(uint64_t context)
{
    if (context != PRIMARY && context != CREATED) return INVALID_CONTEXT;
    stack[depth++] = context;
    return SUCCESS;
}
int cuCtxPopCurrent_v2(uint64_t *context)
{
    if (!depth) return INVALID_CONTEXT;
    *context = stack[--depth];
    return SUCCESS;
}
int cuMemAlloc_v2(uint64_t *address, size_t size)
{
    return current() ? allocate(address, size, current(), 0) : INVALID_CONTEXT;
}
int cuMemAllocManaged(uint64_t *address, size_t size, unsigned flags)
{
    (void)flags;
    return current() ? allocate(address, size, current(), 1) : INVALID_CONTEXT;
}
int cuMemAllocAsync(uint64_t *address, size_t size, uint64_t stream)
{
    (void)stream;
    return current() ? allocate(address, size, 0, 0) : INVALID_CONTEXT;
}
int cuMemFree_v2(uint64_t address)
{
    struct allocation *a = find(address, 1);
    if (!a || a->address != address) return INVALID_VALUE;
    a->size = 0;
    return SUCCESS;
}
int cuPointerGetAttribute(void *data, int attribute, uint64_t address)
{
    if (!is_initialized) return NOT_INITIALIZED;
    struct allocation *a = find(address, 1);
    if (!a) return INVALID_VALUE;
    switch (attribute) {
    case 1: *(uint64_t *)data = a->context; return SUCCESS;
    case 2: *(unsigned *)data = 2; return SUCCESS;
    case 8: *(unsigned *)data = a->managed; return SUCCESS;
    case 9: *(int *)data = 0; return SUCCESS;
    case 11: *(uint64_t *)data = a->address; return SUCCESS;
    case 12: *(uint64_t *)data = a->size; return SUCCESS;
    default: return INVALID_VALUE;
    }
}
int cuThreadExchangeStreamCaptureMode(int *mode)
{
    int before = capture_mode;
    capture_mode = *mode;
    *mode = before;
    return SUCCESS;
}
int cuStreamCreate(uint64_t *stream, unsigned flags)
{
    if (is_refused()) return is_refused();
    if (!current()) return INVALID_CONTEXT;
    struct stream *s = calloc(1, sizeof *s);
    s->context = current();
    s->flags = flags;
    *stream = (uint64_t)s;
    return SUCCESS;
}
int cuStreamSynchronize(uint64_t stream)
{
    struct stream *s = (struct stream *)stream;
    if (!s) return awaited_address ? NOT_READY : SUCCESS;
    if (current() != s->context) return INVALID_CONTEXT;
    for (int i = 0; i < s->count; i++) memcpy(s->copies[i].to, s->copies[i].from, s->copies[i].len);
    s->count = 0;
    char *flag = awaited_address ? bytes_at(awaited_address, 4) : NULL;
    if (flag && *(uint32_t *)flag >= awaited_value) awaited_address = 0;
    return SUCCESS;
}
/* The driver would wait; so that a test ends, this one refuses. */
static int would_wait(const struct stream *s) { return awaited_address && (!s || s->flags != 1); }
static int copy(void *to, const void *from, size_t len, uint64_t stream)
{
    struct stream *s = (struct stream *)stream;
    if (is_refused()) return is_refused();
    if (!current()) return INVALID_CONTEXT;
    if (!to || !from) return INVALID_VALUE;
    if (would_wait(s)) return NOT_READY;
    if (!s) {
        memcpy(to, from, len);
        return SUCCESS;
    }
    if (s->context != current() || s->count == COPIES) return INVALID_VALUE;
    s->copies[s->count++] = (struct copy){ to, from, len };
    return SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t len, uint64_t stream)
{
    return copy(to, bytes_at(from, len), len, stream);
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t len, uint64_t stream)
{
    return copy(bytes_at(to, len), from, len, stream);
}
int cuStreamWaitValue32_v2(uint64_t stream, uint64_t address, uint32_t value, unsigned flags)
{
    (void)flags;
    if (stream) return INVALID_VALUE;
    awaited_address = address;
    awaited_value = value;
    return SUCCESS;
}
int cuStreamBeginCapture_v2(uint64_t stream, int mode)
{
    (void)stream; (void)mode;
    is_capturing = 1;
    is_spoiled = 0;
    return SUCCESS;
}
int cuStreamEndCapture(uint64_t stream, uint64_t *graph)
{
    (void)stream;
    is_capturing = 0;
    *graph = is_spoiled ? 0 : 1;
    return is_spoiled ? CAPTURE_INVALIDATED : SUCCESS;
}
