// Attention over packed sequences by tiles with an online softmax. Blocks do not depend on each other, and each adds in an order of its own
// sequence: results are the same from run to run, and alone or packed.
#include "../cuda/common.cuh"
#include "place.cuh"
#include "plain.cuh"

ATTENTION_PLAIN(float, f32_64, 64)
ATTENTION_PLAIN(float, f32_128, 128)
ATTENTION_PLAIN(float, f32_256, 256)
// Heads whose rows do not begin at multiples of 16 bytes, and scales that are not positive.
ATTENTION_PLAIN(bf16, bf16_64, 64)
ATTENTION_PLAIN(bf16, bf16_256, 256)

