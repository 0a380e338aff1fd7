#!/usr/bin/env python3
"""Trains a small network by PyTorch's DistributedDataParallel, a rank per GPU, and prints the loss.

    efarun -n 4 python3 examples/ddp/ddp.py
    efarun -n 4 -x LD_PRELOAD=$PWD/target/nccl/libnccl.so.2 python3 examples/ddp/ddp.py

The first uses the NCCL that PyTorch brings, the second efarun's library in its place (`scripts/nccl` makes it). Both give
the same losses, as far as sums in another order do: every rank draws its own data from a seed, and gradients are averaged
over all ranks in every step.
"""

import ctypes
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

STEPS = 50
BATCH = 256
WIDTH = 1024


def main():
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl", device_id=torch.device("cuda", local_rank))

    # All ranks begin with the network of rank 0: DistributedDataParallel broadcasts it.
    torch.manual_seed(rank)
    layers = [torch.nn.Linear(WIDTH, WIDTH), torch.nn.GELU(), torch.nn.Linear(WIDTH, WIDTH)]
    network = DistributedDataParallel(torch.nn.Sequential(*layers).cuda(), device_ids=[local_rank])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    generator = torch.Generator(device="cuda").manual_seed(1000 + rank)
    for step in range(STEPS):
        data = torch.randn(BATCH, WIDTH, device="cuda", generator=generator)
        loss = torch.nn.functional.mse_loss(network(data), data.roll(1, dims=1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean, op=dist.ReduceOp.AVG)
        if rank == 0 and (step + 1) % 10 == 0:
            print(f"step {step + 1}: loss {mean.item():.6f}", flush=True)
    if rank == 0:
        print(f"gradients were averaged by {library()}", flush=True)
    dist.destroy_process_group()


def library():
    """The file that this process has NCCL's functions from: of several by this name the first that was loaded."""
    address = ctypes.cast(ctypes.CDLL("libnccl.so.2").ncclAllReduce, ctypes.c_void_p).value
    with open("/proc/self/maps") as maps:
        for line in maps:
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            if begin <= address < end:
                return line.split()[-1]
    return "an unknown library"


if __name__ == "__main__":
    main()
