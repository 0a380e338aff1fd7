// Messages between two ranks: what a launch is told of them, and how ranks that do not agree on one learn of it.
//
// Short and long messages go by different ways, so that who waits on one sees nothing of what comes by the other. So a sender
// also notes, where the receiver keeps it, the number and the length of each message that it begins, counted between the
// two whatever its way. Who has waited for long looks whether the message that it waits for is noted with another length.
// It then refuses it, and says so where the sender looks. Notes carry no data and nobody waits for one: where numbers are
// not known, as in graphs, which are run again, there are none.
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
    // How many channels long messages go by, by how many blocks for each peer, how much a slot takes, and in how many slices a
    // channel's part of a message goes at least, where it is long enough: one is sent while another is taken.
    u32 slot_channels;
    u32 slot_blocks;
    u32 slot_bytes;
    u32 slices_per_channel;
    // How many ranks there are short messages for or from, and which; and of long ones, where this rank can be among them.
    u32 peer_count;
    u32 long_peer_count;
    u32 padding;
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
    // Of each rank: the number of the first message of this launch for it, and from it; 0 where that is not known.
    u32 send_number[RANKS_MAX];
    u32 receive_number[RANKS_MAX];
    // Of each message: how many of this launch come before it between the same two ranks.
    u8 before[MESSAGES_MAX];
    Message messages[MESSAGES_MAX];
};

typedef CallOf<PairParameters> PairCall;

// What `at` keeps of messages from `from`; and whether that rank has refused one of `at`'s.
DEVICE u64 note_word(const PairCall& call, u32 at, u32 from, u32 number) {
    return call.p.window[at] + MESSAGE_NOTES + from * NOTES_BYTES + number % NOTES * 8;
}
DEVICE u64 refusal_word(const PairCall& call, u32 at, u32 from) {
    return call.p.window[at] + MESSAGE_NOTES + from * NOTES_BYTES + NOTES * 8;
}

// Lengths that take more are all one.
DEVICE u32 noted_length(u64 bytes) { return bytes < 0xffffffff ? (u32)bytes : 0xffffffff; }

// By one thread, where a message begins.
DEVICE void note(const PairCall& call, u32 peer, u32 index) {
    u32 number = call.p.send_number[peer] + call.p.before[index];
    if (!call.p.send_number[peer]) return;
    store_word(note_word(call, peer, call.p.rank, number), (u64)number << 32 | noted_length(call.p.messages[index].bytes));
}

// Tells both ends that a message is not what its receiver expects.
DEVICE void refuse(PairCall& call, u32 peer, u32 index, u32 length) {
    u32 expected = noted_length(call.p.messages[index].bytes);
    store_word(refusal_word(call, peer, call.p.rank), 1ull << 32 | expected);
    give_up(call, CAUSE_MISMATCH, peer, length);
}

// As `goes_on`, of who waits for a message of a peer's, or for room for one, or both.
DEVICE bool goes_on_with(Wait& wait, PairCall& call, u32 peer, bool receives, u32 index) {
    if (!goes_on(wait, call, peer)) return false;
    if (wait.polls % 4096 != 0) return true;
    u64 refused = load_word(refusal_word(call, call.p.rank, peer));
    if (refused) give_up(call, CAUSE_MISMATCH, peer, (u32)refused);
    if (!refused && receives && call.p.receive_number[peer]) {
        u32 number = call.p.receive_number[peer] + call.p.before[index];
        u64 noted = load_word(note_word(call, call.p.rank, peer, number));
        bool is_other = (u32)noted != noted_length(call.p.messages[index].bytes);
        if (noted >> 32 == number && is_other) refuse(call, peer, index, (u32)noted);
    }
    return !call.is_given_up;
}
