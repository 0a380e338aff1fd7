#!/usr/bin/env python3
"""Times gradients' all_reduce beside the matrix products that it shares the GPU with, a rank per GPU.

    efarun -n 2 python3 examples/ddp/beside.py
    efarun -n 2 -x LD_PRELOAD=$PWD/target/nccl/libnccl.so.2 python3 examples/ddp/beside.py --blocks 0,64,32

What a training step takes is not told by a collective alone: one that keeps more multiprocessors is quicker and leaves fewer to what
computes meanwhile. Each row has the time of all_reduces alone, of products alone, and of both at the same time on two streams, which
is as long as the longer of them at best and as both together at worst. `--blocks` says how many blocks collectives may have
(`EFARUN_GPU_BLOCKS` for efarun's library, `NCCL_MAX_CTAS` for either); 0 leaves that to the library.
"""

import argparse
import os
import statistics
import time

import torch
import torch.distributed as dist

from ddp import library


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--blocks", default="0", help="how many blocks collectives may have; several, with commas between")
    arguments.add_argument("--mib", default="25,64", help="MiB of each all_reduce; DistributedDataParallel's buckets have 25")
    arguments.add_argument("--width", type=int, default=8192, help="rows and columns of the matrices, of bf16")
    arguments.add_argument("--products", type=int, default=20, help="how many products there are")
    arguments.add_argument("--total", type=int, default=2000, help="MiB of all all_reduces together")
    arguments.add_argument("--rounds", type=int, default=5, help="of which the median is told")
    wanted = arguments.parse_args()

    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local_rank)
    device = torch.device("cuda", local_rank)
    dist.init_process_group("nccl", device_id=device)
    left, right = (torch.randn(wanted.width, wanted.width, device=device, dtype=torch.bfloat16) for _ in range(2))
    product, side = torch.empty_like(left), torch.cuda.Stream()
    if rank == 0:
        print(f"NCCL's functions are those of {library()}")
        print(f"{'blocks':>8} {'MiB':>6} {'one us':>9} {'alone ms':>9} {'products ms':>12} {'both ms':>9}", flush=True)

    def multiply():
        for _ in range(wanted.products):
            torch.mm(left, right, out=product)

    def timed(act):
        dist.barrier()
        torch.cuda.synchronize()
        start = time.perf_counter()
        act()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1e3

    for blocks in wanted.blocks.split(","):
        os.environ.pop("NCCL_MAX_CTAS", None)
        if blocks != "0":
            os.environ["NCCL_MAX_CTAS"] = blocks
        # A communicator of its own, which reads the variable.
        group = dist.new_group(list(range(dist.get_world_size())))
        for mib in map(int, wanted.mib.split(",")):
            gradients = torch.zeros(mib << 19, device=device, dtype=torch.bfloat16)
            count = max(1, wanted.total // mib)

            def reduce():
                with torch.cuda.stream(side):
                    for work in [dist.all_reduce(gradients, group=group, async_op=True) for _ in range(count)]:
                        work.wait()

            def both():
                reduce()
                multiply()

            both()
            rows = [(timed(reduce), timed(multiply), timed(both)) for _ in range(wanted.rounds)]
            alone, products, together = (statistics.median(column) for column in zip(*rows))
            if rank == 0:
                told = "any" if blocks == "0" else blocks
                print(f"{told:>8} {mib:>6} {alone / count * 1e3:>9.1f} {alone:>9.2f} {products:>12.2f} {together:>9.2f}", flush=True)
        dist.destroy_process_group(group)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
