// Messages between two ranks: what a launch is told of them.
#pragma once
#include "protocol.cuh"

constexpr u32 MESSAGES_MAX = 120;

struct Message {
    u64 address;
    u64 bytes;
};

// A launch. The host's `PairParameters` has the same layout (pairs.rs), and a test compares the two.
struct PairParameters {
    u64 window[RANKS_MAX];
    u64 state;
    u64 status;
    u64 deadline_ns;
    u32 rank;
    u32 ranks;
    // Where the messages are the blocks of a collective, which it is; else 0.
    u32 signature;
    // How many channels long messages go by, how much a slot takes, and in how many slices a channel's part of a message goes
    // at least, where it is long enough: one is sent while another is taken.
    u32 slot_channels;
    u32 slot_bytes;
    u32 slices_per_channel;
    // How many ranks there are short messages for or from, and which; and of long ones, where this rank can be among them.
    u32 peer_count;
    u32 long_peer_count;
    u32 peers[RANKS_MAX];
    u32 long_peers[RANKS_MAX];
    // Of each rank: where its messages begin, the short ones in front, and how many they are of each kind, in the order in
    // which they are sent or received.
    u32 send_first[RANKS_MAX];
    u32 send_count[RANKS_MAX];
    u32 send_long_count[RANKS_MAX];
    u32 receive_first[RANKS_MAX];
    u32 receive_count[RANKS_MAX];
    u32 receive_long_count[RANKS_MAX];
    Message messages[MESSAGES_MAX];
};

typedef CallOf<PairParameters> PairCall;
