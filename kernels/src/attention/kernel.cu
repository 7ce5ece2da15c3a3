// Attention over packed sequences by tiles with an online softmax. Blocks do not depend on each other, and each adds in an order of its own
// sequence: results are the same from run to run, and alone or packed.
#include "../cuda/common.cuh"
#include "place.cuh"
#include "plain.cuh"
#include "forward.cuh"

ATTENTION_PLAIN(float, f32_64, 64)
ATTENTION_PLAIN(float, f32_128, 128)
ATTENTION_PLAIN(float, f32_256, 256)
// Heads whose rows do not begin at multiples of 16 bytes, and scales that are not positive.
ATTENTION_PLAIN(bf16, bf16_64, 64)
ATTENTION_PLAIN(bf16, bf16_256, 256)

ATTENTION_FORWARD(bf16_64, 3, 64, 2, 48, false, false)
ATTENTION_FORWARD(bf16_128, 2, 128, 2, 48, false, false)
ATTENTION_FORWARD(bf16_256, 1, 256, 1, 32, false, false)
ATTENTION_FORWARD(dropout_bf16_64, 2, 64, 2, 48, true, true)
ATTENTION_FORWARD(dropout_bf16_128, 2, 128, 2, 32, false, true)
ATTENTION_FORWARD(dropout_bf16_256, 1, 256, 1, 32, false, true)
