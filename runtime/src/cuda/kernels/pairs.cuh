// Short messages between two ranks, any number of them at the same time; long ones go by slots (slots.cuh).
//
// A message goes in lines as the two-shot leaf has them (two_shot.cuh), by as many channels as its length asks for. A block
// serves one peer in one channel: half of its warps send, half receive, so that neither direction waits for the other. A
// warp has a ring of places for lines in the receiver's window, and is told in its own window how many of them were read;
// it writes no line before its place is free. What was sent and received is counted from launch to launch, so that a sender
// may be messages ahead, as far as there is room.
//
// Ranks that have nothing to send each other take no part. A line's number carries in its upper bits what the sender takes
// the message's length to be: a receiver that expects another says so.
#pragma once
#include "messages.cuh"
#include "slots.cuh"
#include "two_shot.cuh"

// Lines that a warp handles together, so that it waits for memory once.
constexpr u32 LINES_AT_ONCE = 4;
// A line's number: the round in the lower bits, of the message's length a hash in the others.
constexpr u64 ROUND_MASK = (1ull << 40) - 1;

DEVICE u64 length_mark(u64 bytes) { return (bytes * 0x9e3779b97f4a7c15ull) & ~ROUND_MASK; }

// By how many channels a message goes: both ends must say the same.
DEVICE u32 pair_channels(u64 bytes) {
    u64 channels = (bytes + PAIR_CHANNEL_BYTES - 1) / PAIR_CHANNEL_BYTES;
    return channels < PAIR_CHANNELS ? (u32)channels : PAIR_CHANNELS;
}

// What one warp does with one message.
struct Share {
    u64 address;
    u64 bytes;
    u64 mark;
    u64 first;
    u64 step;
};

DEVICE Share share_of(const PairCall& call, const Message& message, u32 warp) {
    u32 channels = pair_channels(message.bytes);
    Share share = {message.address, message.bytes, length_mark(message.bytes), message.bytes, 0};
    share.step = (u64)channels * PAIR_WARPS * ROUND_BYTES;
    if (call.channel < channels) share.first = ((u64)call.channel * PAIR_WARPS + warp) * ROUND_BYTES;
    return share;
}

DEVICE u32 rounds_at(const Share& share, u64 base) {
    u32 count = 0;
    for (; count < LINES_AT_ONCE && base + count * share.step < share.bytes; count++);
    return count;
}

DEVICE u64 pair_index(const PairCall& call, u32 peer, u32 warp) {
    return ((u64)call.channel * RANKS_MAX + peer) * PAIR_WARPS + warp;
}

DEVICE u64 pair_line(const PairCall& call, const Lane& lane, u64 round, u32 warp, u32 at, u32 from) {
    u64 slot = pair_index(call, from, warp) * PAIR_SLOTS + round % PAIR_SLOTS;
    return call.p.window[at] + PAIR_LINES + slot * WARP * 16 + lane.line;
}

DEVICE u64 pair_credit(const PairCall& call, u32 warp, u32 at, u32 from) {
    return call.p.window[at] + PAIR_CREDITS + pair_index(call, from, warp) * 8;
}

// Waits until the receiver has read so many lines that `round` has a place.
DEVICE u64 await_room(PairCall& call, u32 peer, u32 warp, u64 round, u64 freed) {
    Wait wait = {0, 0};
    while (!all_of_warp(round - freed <= PAIR_SLOTS)) {
        if (!all_of_warp(goes_on_with(wait, call, peer, false, 0))) {
            call.is_given_up = true;
            break;
        }
        freed = load_word(pair_credit(call, warp, call.p.rank, peer));
    }
    return freed;
}

DEVICE void send_messages(PairCall& call, u32 peer, u32 warp, const Lane& lane, u64 column) {
    const PairParameters& p = call.p;
    u64 counter = p.state + STATE_PAIRS + pair_index(call, peer, warp) * 16;
    u64 round = *(const u64*)counter;
    u64 freed = load_word(pair_credit(call, warp, p.rank, peer));
    for (u32 i = 0; i < p.send_count[peer] && !call.is_given_up; i++) {
        Share share = share_of(call, p.messages[p.send_first[peer] + i], warp);
        if (call.channel == 0 && thread_index() == 0) note(call, peer, p.send_first[peer] + i);
        for (u64 base = share.first; base < share.bytes; base += LINES_AT_ONCE * share.step) {
            u32 count = rounds_at(share, base);
            Pair parts[LINES_AT_ONCE];
#pragma unroll
            for (u32 k = 0; k < LINES_AT_ONCE; k++) {
                u64 at = base + k * share.step + column;
                if (k < count) parts[k] = load_part(share.address + at, lane, (i64)share.bytes - (i64)at);
            }
            freed = await_room(call, peer, warp, round + count, freed);
            if (call.is_given_up) break;
#pragma unroll
            for (u32 k = 0; k < LINES_AT_ONCE; k++) {
                if (k >= count) continue;
                u64 number = round + k + 1;
                send_line(pair_line(call, lane, number, warp, peer, p.rank), lane, parts[k], share.mark | number);
            }
            round += count;
        }
    }
    if (thread_index() % WARP == 0) *(u64*)counter = round;
}

DEVICE Pair await_pair_line(PairCall& call, u64 address, Pair found, const Lane& lane, u64 number, u32 peer, u32 index) {
    Wait wait = {0, 0};
    while (!all_of_warp(!lane.is_last || found.hi == number)) {
        bool is_other_length = lane.is_last && found.hi != number && !((found.hi ^ number) & ROUND_MASK);
        if (is_other_length) refuse(call, peer, index, (u32)(found.hi >> 40));
        if (!all_of_warp(goes_on_with(wait, call, peer, true, index))) {
            call.is_given_up = true;
            break;
        }
        found = load_pair(address);
    }
    return found;
}

DEVICE void receive_messages(PairCall& call, u32 peer, u32 warp, const Lane& lane, u64 column) {
    const PairParameters& p = call.p;
    u64 counter = p.state + STATE_PAIRS + pair_index(call, peer, warp) * 16 + 8;
    u64 round = *(const u64*)counter;
    for (u32 i = 0; i < p.receive_count[peer] && !call.is_given_up; i++) {
        u32 index = p.receive_first[peer] + i;
        Share share = share_of(call, p.messages[index], warp);
        for (u64 base = share.first; base < share.bytes && !call.is_given_up; base += LINES_AT_ONCE * share.step) {
            u32 count = rounds_at(share, base);
            Pair found[LINES_AT_ONCE];
#pragma unroll
            for (u32 k = 0; k < LINES_AT_ONCE; k++) {
                if (k < count) found[k] = load_pair(pair_line(call, lane, round + k + 1, warp, p.rank, peer));
            }
#pragma unroll
            for (u32 k = 0; k < LINES_AT_ONCE; k++) {
                if (k >= count) continue;
                u64 number = round + k + 1, at = base + k * share.step + column;
                u64 address = pair_line(call, lane, number, warp, p.rank, peer);
                Pair data = await_pair_line(call, address, found[k], lane, share.mark | number, peer, index);
                if (!call.is_given_up) store_part(share.address + at, lane, data, (i64)share.bytes - (i64)at);
            }
            round += count;
            // Every lane has what it read: the data stands in its registers.
            if (thread_index() % WARP == 0) store_word(pair_credit(call, warp, peer, p.rank), round);
        }
    }
    if (thread_index() % WARP == 0) *(u64*)counter = round;
}

DEVICE void pass_short(PairCall& call, u32 peer) {
    if (!all_of_warp(!load_shared_word(call.p.state + STATE_FAILED))) return;
    u32 warp = thread_index() / WARP, index = thread_index() % WARP;
    Lane lane = {0, index % 8 == 7, index * 16};
    u64 column = index / 8 * 120 + index % 8 * 16;
    if (warp < PAIR_WARPS) send_messages(call, peer, warp, lane, column);
    else if (warp < 2 * PAIR_WARPS) receive_messages(call, peer, warp - PAIR_WARPS, lane, column);
}

// By one of the blocks that these messages have, from 0 on.
DEVICE void pass_messages(const PairParameters& p, u32 block) {
    // Blocks of one channel stand beside each other: where the GPU is busy, those of lower channels come first on all ranks.
    u32 per_channel = p.peer_count + p.long_peer_count;
    PairCall call = {p, block / per_channel, 0, false};
    u32 index = block % per_channel;
    if (index >= p.peer_count) pass_long(call, p.long_peers[index - p.peer_count], p.slot_blocks);
    else if (call.channel < PAIR_CHANNELS) pass_short(call, p.peers[index]);
}
