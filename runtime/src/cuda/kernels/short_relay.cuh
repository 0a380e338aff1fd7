// A transfer of short spans alone, which one block passes in one round, through cells.
//
// It is what relay.cuh does of such a transfer, without the rest. A launch finds its code in no cache of its multiprocessor: of two
// nodes of two GPUs, with a step of the node in the same launch (short_steps.cuh), a call of 64 B took 11.5 us in a graph
// while that was the code for spans of any length, and takes 8.3.
#pragma once
#include "cells.cuh"

// Copies a slice within this GPU's memory.
DEVICE void copy_part(u64 from, u64 to, u64 len) { copy(Plain{from}, Plain{to}, len, thread_index() * 16, (u64)THREADS * 16); }

template <class T> DEVICE void pass_short_spans(const RelayParameters& p, const RelayStart& start) {
    RelayCall call = {p, start.counts.channel, 0, false};
    u64 number = start.counts.number + 1, told = start.counts.answered;
    u64 words = p.words + (u64)call.channel * RELAY_WORDS;
    // A round's words and cells are the host's until the answer of the round which had them before.
    u64 wanted = number < RELAY_ROUNDS ? 0 : number - RELAY_ROUNDS;
    bool goes_well = all_of_block(start.goes_well);
    if (goes_well && start.counts.answered < wanted) goes_well = await_answer(call, 0, words, wanted, told);
    if (goes_well) {
        // The host waits for cells that are not there yet.
        if (thread_index() == THREADS - 1) post(words, number, p.plan, 0, false);
        put_cells<T>(call, number);
        // While the host does its part.
        if (p.copied.bytes) copy_part(p.copied.address, p.copied_to, p.copied.bytes);
        if (p.own && p.get_count) reduce_cells<T>(call, number);
        else get_cells(call, number);
    }
    block_barrier();
    if (thread_index() != 0) return;
    u64 counts = p.state + RELAY_COUNTS + (u64)call.channel * 16;
    *(u64*)counts = number;
    *(u64*)(counts + 8) = told;
    if (p.goes_one_way) *(u64*)(p.state + RELAY_TRANSFERS) = start.transfers + 1;
}

template <class T> DEVICE void short_relay(const RelayParameters& p) { pass_short_spans<T>(p, begin_transfer(p)); }
