// Attention over packed sequences by tiles with an online softmax. Blocks do not depend on each other, and each adds in an order of its own
// sequence: results are the same from run to run, and alone or packed.
//
// The files of this folder include nothing themselves: each follows what it uses.
#include "../cuda/common.cuh"
#include "place.cuh"
#include "plain.cuh"
#include "tile.cuh"
#include "forward.cuh"
#include "backward_q.cuh"
#include "backward_k.cuh"
#include "wgmma.cuh"
#include "wgmma_forward.cuh"
#include "wgmma_backward_q.cuh"
#include "wgmma_backward_k.cuh"

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

ATTENTION_BACKWARD_Q(bf16_64, 2, 64, 2, 64, 32, true, false)
ATTENTION_BACKWARD_Q(bf16_128, 2, 128, 2, 32, 32, false, false)
ATTENTION_BACKWARD_Q(bf16_256, 1, 256, 1, 32, 32, false, false)
ATTENTION_BACKWARD_Q(dropout_bf16_64, 2, 64, 2, 64, 32, true, true)
ATTENTION_BACKWARD_Q(dropout_bf16_128, 2, 128, 2, 32, 32, false, true)
ATTENTION_BACKWARD_Q(dropout_bf16_256, 1, 256, 1, 32, 32, false, true)

ATTENTION_BACKWARD_K(bf16_64, 2, 64, 2, 4, 64, 32, false, false, false)
ATTENTION_BACKWARD_K(bf16_128, 1, 128, 1, 8, 64, 16, true, true, false)
ATTENTION_BACKWARD_K_HALVES(bf16_256, 1, 256, 1, 4, 32, 32, false, false, false)
ATTENTION_BACKWARD_K(dropout_bf16_64, 2, 64, 2, 4, 64, 16, false, false, true)
ATTENTION_BACKWARD_K(dropout_bf16_128, 1, 128, 1, 8, 64, 16, true, false, true)
ATTENTION_BACKWARD_K_HALVES(dropout_bf16_256, 1, 256, 1, 4, 32, 32, false, false, true)

#ifdef ECHAT_WGMMA
ATTENTION_WGMMA_PRODUCTS(64, 64, 128)
ATTENTION_WGMMA_PRODUCTS(128, 128, 64)

ATTENTION_WGMMA_FORWARD(bf16_64, 2, 64, 2, 64, false)
ATTENTION_WGMMA_FORWARD(bf16_128, 1, 128, 2, 128, false)
ATTENTION_WGMMA_FORWARD(dropout_bf16_64, 2, 64, 2, 64, true)

ATTENTION_WGMMA_BACKWARD_Q(bf16_64, 2, 64, 2, 64, false)
ATTENTION_WGMMA_BACKWARD_Q(bf16_128, 1, 128, 2, 64, false)
ATTENTION_WGMMA_BACKWARD_Q(dropout_bf16_64, 2, 64, 2, 64, true)

ATTENTION_WGMMA_BACKWARD_K(bf16_64, 1, 64, 2, 64, false)
ATTENTION_WGMMA_BACKWARD_K(bf16_128, 1, 128, 2, 64, false)
ATTENTION_WGMMA_BACKWARD_K(dropout_bf16_64, 1, 64, 2, 64, true)
#endif
