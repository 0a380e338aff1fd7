#!/usr/bin/env python3
"""Checks every collective and message of PyTorch's NCCL backend against results that are known, and times all_reduce.

    efarun -n 2 -x LD_PRELOAD=$PWD/target/nccl/libnccl.so.2 python3 examples/ddp/check.py
    efarun -n 2 -x LD_PRELOAD=$PWD/target/nccl/libnccl.so.2 python3 examples/ddp/check.py --die

Values are small integers, which every type here holds exactly, so that results are compared bit by bit. With --die the last
rank kills itself in the middle of a loop, and the others say what they were told of it and after how long. Ends with 1
where a result is wrong, or where nobody was told.
"""

import os
import signal
import sys
import time

import torch
import torch.distributed as dist

COUNTS = [1, 3, 250, 4096, 50_000, 1 << 20, (4 << 20) + 17]
# More than a GPU has room for that its owner does not wait for yet.
LONG_COUNT = 12 << 20
TYPES = [torch.float32, torch.bfloat16, torch.int64]
TIMED_COUNTS = [2, 1 << 10, 1 << 14, 1 << 18, 1 << 22]
TIMED_ROUNDS = 15
CALLS_BEFORE_DEATH = 60


class Check:
    """Counts results, and says which are wrong."""

    def __init__(self, rank):
        self.rank, self.results, self.wrong = rank, 0, 0

    def equal(self, name, got, wanted):
        self.results += 1
        if not torch.equal(got, wanted):
            self.wrong += 1
            places = (got != wanted).nonzero().flatten()
            which = f"{places.numel()} of {got.numel()} are wrong, from {places[0].item()} on"
            print(f"rank {self.rank}: {name}: {which}", flush=True)


def data(rank, count, dtype):
    """What a rank has: 0 to 10, so that sums over 20 ranks stay exact in bfloat16."""
    return ((torch.arange(count, device="cuda") * (rank + 3) + rank + count) % 11).to(dtype)


def check_all(check, rank, ranks, count, dtype):
    mine, everybody = data(rank, count, dtype), [data(other, count, dtype) for other in range(ranks)]
    total = torch.stack(everybody).sum(0).to(dtype)
    result = mine.clone()
    dist.all_reduce(result)
    check.equal("all_reduce", result, total)
    for root in range(ranks):
        result = mine.clone()
        dist.broadcast(result, root)
        check.equal("broadcast", result, everybody[root])
        result = mine.clone()
        dist.reduce(result, root)
        gathered = [torch.empty_like(mine) for _ in range(ranks)] if rank == root else None
        dist.gather(mine, gathered, dst=root)
        parts = [data(root + part, count, dtype) for part in range(ranks)]
        part = torch.empty_like(mine)
        dist.scatter(part, parts if rank == root else None, src=root)
        check.equal("scatter", part, parts[rank])
        if rank == root:
            check.equal("reduce", result, total)
            check.equal("gather", torch.cat(gathered), torch.cat(everybody))
    result = torch.empty(ranks * count, device="cuda", dtype=dtype)
    dist.all_gather_into_tensor(result, mine)
    check.equal("all_gather", result, torch.cat(everybody))
    long = [data(other, ranks * count, dtype) for other in range(ranks)]
    own = slice(rank * count, (rank + 1) * count)
    result = torch.empty_like(mine)
    dist.reduce_scatter_tensor(result, long[rank])
    check.equal("reduce_scatter", result, torch.stack([vector[own] for vector in long]).sum(0).to(dtype))
    result = torch.empty_like(long[0])
    dist.all_to_all_single(result, long[rank])
    check.equal("all_to_all", result, torch.cat([vector[own] for vector in long]))
    result = torch.empty_like(mine)
    before, after = (rank - 1) % ranks, (rank + 1) % ranks
    messages = [dist.P2POp(dist.isend, mine, after), dist.P2POp(dist.irecv, result, before)]
    for message in dist.batch_isend_irecv(messages):
        message.wait()
    check.equal("send and recv", result, everybody[before])


def check_unpaired(check, rank, ranks, count):
    """One rank of two sends and receives at the same time what the other does one behind the other; in turns."""
    peer = rank ^ 1
    if peer >= ranks:
        return
    for in_one in range(2):
        mine = [data(rank + which, count, torch.float32) for which in range(2)]
        result = [torch.empty_like(vector) for vector in mine]
        sends = [dist.P2POp(dist.isend, vector, peer) for vector in mine]
        receives = [dist.P2POp(dist.irecv, vector, peer) for vector in result]
        if rank % 2 == in_one:
            calls = [[sends[0], receives[0], receives[1], sends[1]]]
        else:
            calls = [[receives[0]], [receives[1]], [sends[0]], [sends[1]]]
        for work in [work for call in calls for work in dist.batch_isend_irecv(call)]:
            work.wait()
        for which, vector in enumerate(result):
            check.equal("send and recv, not in pairs", vector, data(peer + which, count, torch.float32))


def check_circle(check, rank, ranks, count):
    """The first and last of four ranks send and receive at the same time what the two between them do one behind the other, in
    either order: whichever ranks are near each other, somebody who waits for one message must be served with the other."""
    first, place = rank // 4 * 4, rank % 4
    if first + 4 > ranks:
        return
    after, before = first + [1, 3, 0, 2][place], first + [2, 0, 3, 1][place]
    for is_received_first in (True, False):
        mine, result = data(rank, count, torch.float32), torch.empty(count, device="cuda")
        both = [dist.P2POp(dist.isend, mine, after), dist.P2POp(dist.irecv, result, before)]
        if place in (1, 2):
            calls = [[message] for message in (both[::-1] if is_received_first else both)]
        else:
            calls = [both]
        for work in [work for call in calls for work in dist.batch_isend_irecv(call)]:
            work.wait()
        check.equal("send and recv in a circle", result, data(before, count, torch.float32))


def time_all_reduce(rank):
    for count in TIMED_COUNTS:
        vector = torch.ones(count, device="cuda")
        calls = 50 if count < 1 << 20 else 20
        for _ in range(5):
            dist.all_reduce(vector)
        # A process may be kept from running for milliseconds, whichever the library: one round says little.
        rounds = sorted(time_round(vector, calls) for _ in range(TIMED_ROUNDS))
        if rank == 0:
            middle, slowest = rounds[TIMED_ROUNDS // 2], rounds[-1]
            print(f"all_reduce of {count * 4} B: {middle:.1f} us, in the slowest round {slowest:.1f}", flush=True)


def time_round(vector, calls):
    """Microseconds per call, of calls one behind the other."""
    vector.fill_(1)
    torch.cuda.synchronize()
    dist.barrier()
    torch.cuda.synchronize()
    since = time.perf_counter()
    for _ in range(calls):
        dist.all_reduce(vector)
    torch.cuda.synchronize()
    return (time.perf_counter() - since) / calls * 1e6


def die(rank, ranks):
    vector = torch.ones(1 << 20, device="cuda")
    while True:
        for _ in range(CALLS_BEFORE_DEATH):
            since = time.perf_counter()
            try:
                dist.all_reduce(vector)
                torch.cuda.synchronize()
            except Exception as error:
                print(f"rank {rank} was told after {time.perf_counter() - since:.3f} s in the call: {error}", flush=True)
                # PyTorch's own end would wait for the rank that is gone.
                os._exit(0)
        if rank == ranks - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def main():
    rank, local_rank, ranks = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    # Ranks that share GPUs, where efarun's library is told that they may.
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    if "--die" in sys.argv[1:]:
        die(rank, ranks)
    check = Check(rank)
    for count in COUNTS:
        for dtype in TYPES:
            check_all(check, rank, ranks, count, dtype)
    for count in [*COUNTS, LONG_COUNT]:
        check_unpaired(check, rank, ranks, count)
        check_circle(check, rank, ranks, count)
    time_all_reduce(rank)
    print(f"rank {rank}: {check.results} results, {check.wrong} wrong", flush=True)
    dist.destroy_process_group()
    sys.exit(check.wrong != 0)


if __name__ == "__main__":
    main()
