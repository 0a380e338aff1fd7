"""An mpi4py program: checks that it is one world, on as many nodes as it is told. Needs no NumPy."""

import array
import sys

from mpi4py import MPI

world = MPI.COMM_WORLD
rank, size = world.rank, world.size
wrong = 0


def expect(is_right, what):
    global wrong
    if not is_right:
        wrong += 1
        print("wrong:", what, file=sys.stderr)


# 2 MiB of numbers, as a buffer.
LEN = 1 << 18
ours, total = array.array("d", (rank + i for i in range(LEN))), array.array("d", bytes(8 * LEN))
world.Allreduce(ours, total)
expect(all(total[i] == size * (size - 1) / 2 + i * size for i in range(0, LEN, 997)), "Allreduce of 2 MiB")

# Objects of Python's, pickled.
expect(world.bcast({"root": size - 1} if rank == size - 1 else None, root=size - 1) == {"root": size - 1}, "bcast")
expect(world.alltoall([(rank, to) for to in range(size)]) == [(of, rank) for of in range(size)], "alltoall")
expect(world.allgather("r%d" % rank) == ["r%d" % of for of in range(size)], "allgather")

node = world.Split_type(MPI.COMM_TYPE_SHARED)
nodes = world.allreduce(int(node.rank == 0))
node.Free()
expect(nodes == int(sys.argv[1]), "the number of nodes")

if len(sys.argv) > 2 and sys.argv[2] == "abort" and rank == int(sys.argv[3]):
    world.Abort(int(sys.argv[4]))
wrong = world.allreduce(wrong)
if rank == 0:
    print("world of %d ranks on %d nodes, %d wrong" % (size, nodes, wrong), flush=True)
sys.exit(wrong != 0)
