"""Attention over packed sequences in PyTorch by the best way there is: `choose` tries them on the device at hand, best first.

`[rows, heads, width]` of all sequences one behind the other, and where each begins. PyTorch's flash kernels for sequences of any length, called
as torch.nn.attention.varlen calls them but with dropout; that module itself (no dropout); FlexAttention with a block mask
(no dropout); a dense mask.
"""

import torch
import torch.nn.functional as F


@torch.library.custom_op("echat_peers::flash", mutates_args={})
def flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, longest: int, causal: bool, p: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    out, lse, seed, _, _ = torch.ops.aten._flash_attention_forward(
        q, k, v, starts, starts, longest, longest, p, causal, return_debug_mask=False
    )
    return out, lse, seed if p > 0 else torch.zeros(2, dtype=torch.uint64, device=q.device)


@flash.register_fake
def _(q, k, v, starts, longest, causal, p):
    lse = torch.empty((q.shape[1], q.shape[0]), dtype=torch.float, device=q.device)
    return torch.empty_like(q), lse, torch.empty(2, dtype=torch.uint64, device=q.device)


@torch.library.custom_op("echat_peers::flash_backward", mutates_args={})
def flash_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, starts: torch.Tensor,
    longest: int, causal: bool, p: float, seed: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    unused = torch.empty(0, device=q.device)
    return torch.ops.aten._flash_attention_backward(
        grad.contiguous(), q, k, v, out, lse, starts, starts, longest, longest, p, causal, seed, unused
    )


@flash_backward.register_fake
def _(grad, q, k, v, out, lse, starts, longest, causal, p, seed):
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(ctx, inputs, output):
    q, k, v, starts, ctx.longest, ctx.causal, ctx.p = inputs
    ctx.save_for_backward(q, k, v, starts, *output)


def _differentiate(ctx, grad, *_):
    q, k, v, starts, out, lse, seed = ctx.saved_tensors
    grads = flash_backward(grad, q, k, v, out, lse, starts, ctx.longest, ctx.causal, ctx.p, seed)
    return *grads, None, None, None, None


flash.register_autograd(_differentiate, setup_context=_save)


class Sequences:
    """Where packed sequences begin, on a device, in the form that `way` wants."""

    def __init__(self, lens, device, way):
        self.lens, self.longest, self.rows = list(lens), max(lens), sum(lens)
        starts = torch.tensor([0, *lens]).cumsum(0)
        self.starts = starts.to(device, torch.int32)
        if way in (by_mask, by_flex):
            owner = torch.repeat_interleave(torch.arange(len(lens)), torch.tensor(lens)).to(device)
        if way is by_mask:
            full = owner[:, None] == owner[None]
            self.masks = (full, full.tril())
        if way is by_flex:
            from torch.nn.attention.flex_attention import create_block_mask

            def meet(causal):
                return lambda _b, _h, q, k: (owner[q] == owner[k]) & ((q >= k) | (not causal))

            self.masks = tuple(create_block_mask(meet(c), None, None, self.rows, self.rows, device=device) for c in (False, True))


def by_flash(q, k, v, seq, causal, p):
    return flash(q, k, v, seq.starts, seq.longest, causal, p)[0]


def by_varlen(q, k, v, seq, causal, p):
    from torch.nn.attention.varlen import varlen_attn

    window = (-1, 0) if causal else (-1, -1)
    return varlen_attn(q, k, v, seq.starts, seq.starts, seq.longest, seq.longest, window_size=window)


@torch.compile
def flex(q, k, v, mask):
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(q, k, v, block_mask=mask)


def by_flex(q, k, v, seq, causal, p):
    heads = [x.transpose(0, 1)[None] for x in (q, k, v)]
    return flex(*heads, seq.masks[causal])[0].transpose(0, 1)


def by_mask(q, k, v, seq, causal, p):
    heads = [x.transpose(0, 1)[None] for x in (q, k, v)]
    return F.scaled_dot_product_attention(*heads, attn_mask=seq.masks[causal], dropout_p=p)[0].transpose(0, 1)


WAYS = {
    "flash kernels over packed rows": by_flash,
    "torch.nn.attention.varlen, no attention dropout": by_varlen,
    "FlexAttention, no attention dropout": by_flex,
    "a dense mask": by_mask,
}


def right(way, device):
    """Whether `way` works here: without dropout as the dense mask does, with it finite, forward and backward."""
    lens = [70, 1, 129, 33]
    for causal, width in ((False, 64), (True, 128)):
        inputs = [torch.randn(sum(lens), 4, width, device=device, dtype=torch.bfloat16) for _ in range(3)]
        results = []
        for f, p in ((by_mask, 0.0), (way, 0.0), (way, 0.1)):
            q, k, v = (x.detach().requires_grad_() for x in inputs)
            out = f(q, k, v, Sequences(lens, device, f), causal, p)
            out.backward(torch.linspace(-1, 1, out.numel(), device=device, dtype=out.dtype).view_as(out))
            results.append([x.detach().float() for x in (out, q.grad, k.grad, v.grad)])
        for want, got, dropped in zip(*results):
            if (got - want).norm() > 2e-2 * want.norm() + 1e-3 or not dropped.isfinite().all():
                return False
    return True


def choose(device):
    """The best way that works on `device`, and its name."""
    for name, way in list(WAYS.items())[: None if device.type == "cuda" else 0]:
        try:
            if right(way, device):
                return name, way
        except Exception as error:  # noqa: BLE001  whatever is missing in this PyTorch
            print(f"# {name}: {type(error).__name__}: {str(error).splitlines()[0][:120]}", flush=True)
    return "a dense mask", by_mask
