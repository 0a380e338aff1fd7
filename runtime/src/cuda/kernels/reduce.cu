// The kernels that reduce elements of one type, which ELEMENT names.
#include "direct.cuh"
#include "one_shot.cuh"
#include "relay.cuh"
#include "ring.cuh"
#include "short_steps.cuh"
#include "two_shot.cuh"

typedef float f32;
typedef double f64;

#ifdef EMULATED
#define JOIN(left, right) left##right
#define NAMED(left, right) JOIN(left, right)
#define NAME(leaf) NAMED(leaf##_, ELEMENT)
#define PARAMETERS const Parameters& parameters
#define RELAY_PARAMETERS const RelayParameters& parameters
#define SHORT_STEPS_PARAMETERS const ShortStepsParameters& parameters
#else
#define NAME(leaf) leaf
#define PARAMETERS const __grid_constant__ Parameters parameters
#define RELAY_PARAMETERS const __grid_constant__ RelayParameters parameters
#define SHORT_STEPS_PARAMETERS const __grid_constant__ ShortStepsParameters parameters
#endif

KERNEL(NAME(one_shot), PARAMETERS, one_shot<ELEMENT>(parameters, true))
KERNEL(NAME(two_shot), PARAMETERS, two_shot<ELEMENT>(parameters))
KERNEL(NAME(direct), PARAMETERS, direct<ELEMENT>(parameters))
KERNEL_OF(RING_THREADS, NAME(ring), PARAMETERS, ring<ELEMENT>(parameters))
KERNEL(NAME(relay), RELAY_PARAMETERS, relay<ELEMENT>(parameters))
KERNEL(NAME(short_relay), RELAY_PARAMETERS, short_relay<ELEMENT>(parameters))
KERNEL(NAME(short_steps), SHORT_STEPS_PARAMETERS, short_steps<ELEMENT>(parameters, true))
