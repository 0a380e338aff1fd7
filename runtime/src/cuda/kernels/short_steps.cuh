// Two short steps of a call between nodes in one launch: a transfer of short spans, and a collective of the node in front of it or
// behind it, which is one exchange.
//
// One block does both, so that what the first leaves in this GPU's memory the second finds behind a barrier of the block. Other ranks
// cannot tell whether a rank does them so or each by a launch of its own: what is counted, sent and waited for is the same.
#pragma once
#include "one_shot.cuh"
#include "short_relay.cuh"

// A launch. The host's `ShortStepsParameters` has the same layout (relay/short_steps.rs), and a test compares the two.
struct ShortStepsParameters {
    RelayParameters relay;
    Parameters node;
    // Whether the node's step comes first.
    u64 is_node_first;
};

template <class T> DEVICE void short_steps(const ShortStepsParameters& p, bool is_reduction) {
    // What each begins with is asked for before the other is waited for.
    RelayStart start = begin_transfer(p.relay);
    Call call = {p.node, 0, 0, false};
    bool goes_on = begin(call);
#pragma unroll 1
    for (u32 turn = 0; turn < 2; turn++) {
        if ((turn == 0) != (p.is_node_first != 0)) {
            pass_short_spans<T>(p.relay, start);
            continue;
        }
        // Of the whole block, and behind all that it has done: who left a step alone would be a barrier ahead.
        if (all_of_block(goes_on)) exchange_once<T, IS_COMMON<T>>(call, is_reduction);
    }
}
