// The kernels that move bytes and reduce nothing.
#include "all_messages.cuh"
#include "direct.cuh"
#include "far_messages.cuh"
#include "one_shot.cuh"
#include "pairs.cuh"
#include "relay.cuh"
#include "ring.cuh"
#include "short_steps.cuh"
#include "two_shot.cuh"

#ifdef EMULATED
#define NAME(leaf) leaf##_bytes
#define PARAMETERS const Parameters& parameters
#define RELAY_PARAMETERS const RelayParameters& parameters
#define SHORT_STEPS_PARAMETERS const ShortStepsParameters& parameters
#define PAIR_PARAMETERS const PairParameters& parameters
#define FAR_PARAMETERS const FarParameters& parameters
#define ALL_PARAMETERS const AllParameters& parameters
#else
#define NAME(leaf) leaf
#define PARAMETERS const __grid_constant__ Parameters parameters
#define RELAY_PARAMETERS const __grid_constant__ RelayParameters parameters
#define SHORT_STEPS_PARAMETERS const __grid_constant__ ShortStepsParameters parameters
#define PAIR_PARAMETERS const __grid_constant__ PairParameters parameters
#define FAR_PARAMETERS const __grid_constant__ FarParameters parameters
#define ALL_PARAMETERS const __grid_constant__ AllParameters parameters
#endif

KERNEL(NAME(one_shot), PARAMETERS, one_shot<Bytes>(parameters, false))
KERNEL(NAME(two_shot), PARAMETERS, two_shot<Bytes>(parameters))
KERNEL(NAME(direct), PARAMETERS, direct<Bytes>(parameters))
KERNEL_OF(RING_THREADS, NAME(ring), PARAMETERS, ring<Bytes>(parameters))
KERNEL(NAME(relay), RELAY_PARAMETERS, relay<Bytes>(parameters))
KERNEL(NAME(short_relay), RELAY_PARAMETERS, short_relay<Bytes>(parameters))
KERNEL(NAME(short_steps), SHORT_STEPS_PARAMETERS, short_steps<Bytes>(parameters, false))
KERNEL_OF(MESSAGE_THREADS, NAME(pairs), PAIR_PARAMETERS, pass_messages(parameters, block_index()))
KERNEL(NAME(far_messages), FAR_PARAMETERS, pass_far_messages(parameters, block_index()))
KERNEL_OF(MESSAGE_THREADS, NAME(all_messages), ALL_PARAMETERS, pass_all_messages(parameters))
