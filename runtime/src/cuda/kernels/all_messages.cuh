// Messages to ranks of this node and to those of others in one launch: none of either waits for one of the other.
//
// Those with other nodes have the first blocks. They are few and are there at once, whatever the others wait for, which can be more
// than a GPU has room for.
#pragma once
#include "far_messages.cuh"
#include "pairs.cuh"

// A launch. The host's `AllParameters` has the same layout (relay/far/parameters.rs), and a test compares the two.
struct AllParameters {
    FarParameters far;
    PairParameters near;
};

DEVICE void pass_all_messages(const AllParameters& p) {
    u32 before = far_blocks(p.far);
    if (block_index() >= before) return pass_messages(p.near, block_index() - before);
    // The others' barriers do not wait for warps that have ended.
    if (thread_index() < THREADS) pass_far_messages(p.far, block_index());
}
