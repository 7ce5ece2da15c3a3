"""Errors of PyTorch's bf16 ops against the same ops in f64, at the shapes of `echat gpu-check` (kernels/src/check): `|got - want| / |want|` in the
2-norm, over forward and every gradient, inputs uniform in [-1, 1) and rounded to bf16 first. See gpu_ops.py."""

import torch
import torch.nn.functional as F
from packed_attention import Sequences, by_mask, choose

RAGGED = [70, 1, 129, 33]


def relative(got, want):
    got = got.double()
    if not got.isfinite().all():
        return float("inf")
    scale = want.norm().item()
    return (got - want).norm().item() / (scale or 1.0)


class Found:
    def __init__(self, device):
        self.device, self.rows = device, []
        self.draw = torch.Generator(device="cpu").manual_seed(0)

    def random(self, *shape):
        return (torch.rand(shape, generator=self.draw) * 2 - 1).bfloat16().to(self.device)

    def op(self, name, what, f, inputs, exact=None):
        """f(*inputs) in bf16 against `exact` (f itself) in f64; then the gradients of its inner product with a random tensor."""
        try:
            grad, results = None, []
            for g, dtype in ((f, torch.bfloat16), (exact or f, torch.float64)):
                leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
                out = g(*leaves)
                grad = self.random(*out.shape) if grad is None else grad
                out.backward(grad.to(out.dtype))
                results.append([out.detach(), *(x.grad for x in leaves)])
            labels = ["y", *(f"d{i}" for i in range(len(inputs)))]
            each = {l: relative(g, w) for l, g, w in zip(labels, *results)}
            self.rows.append({"op": name, "what": what, "worst": max(each.values()), "errors": each})
        except Exception as error:  # noqa: BLE001
            print(f"# error of {name} {what}: {type(error).__name__}: {str(error).splitlines()[0][:150]}", flush=True)


def rows_of(found):
    for t, d in ((67, 1024), (5, 4096), (33, 100), (300, 7)):
        at, (x, w, b) = f"[{t}, {d}]", (found.random(t, d), found.random(d), found.random(d))
        found.op("rms_norm", at, lambda x, w: F.rms_norm(x, (x.shape[1],), w, 1e-6), [x, w])
        found.op("layer_norm", at, lambda x, w, b: F.layer_norm(x, (x.shape[1],), w, b), [x, w, b])
        found.op("row_normalize", at, lambda x: F.normalize(x, eps=1e-7), [x])
        found.op("activation", f"gelu {at}", lambda x, b: F.gelu(x + b), [x, b])
        found.op("activation", f"relu {at}", lambda x, b: F.relu(x + b), [x, b])
        found.op("column_sum", at, lambda x: x.sum(0), [x])
        found.op("swiglu", at, lambda x, g: F.silu(x) * g, [x, found.random(t, d)])
        found.op("add", at, lambda x, g: x + g, [x, found.random(t, d)])
    for t, h, dh in ((70, 4, 128), (33, 3, 64), (5, 2, 10)):
        # The angles are given in f64 to both: what differs is the arithmetic, and bf16 tables as transformers has them.
        angle = (torch.arange(t).double() * 7 % 500)[:, None] * 10000.0 ** (-2.0 * torch.arange(dh // 2).double() / dh)
        angle = torch.cat([angle, angle], -1)[:, None].to(found.device)

        def rope(x, angle=angle):
            a, c = x.chunk(2, -1)
            return x * angle.cos().to(x.dtype) + torch.cat([-c, a], -1) * angle.sin().to(x.dtype)

        found.op("rope", f"[{t}, {h}, {dh}]", rope, [found.random(t, h, dh)])


def sequences_of(found):
    layers = [found.random(sum(RAGGED), 264) for _ in range(7)]
    mix = lambda raw, *layers: sum(w * x for w, x in zip(raw.float().softmax(0).to(layers[0].dtype), layers))
    exact = lambda raw, *layers: sum(w * x for w, x in zip(raw.softmax(0), layers))
    found.op("layer_sum", "7 layers", mix, [found.random(7), *layers], exact)
    name, way = choose(found.device)
    lens = [65, 1, 200, 127]
    for h, dh, causal in ((2, 64, False), (4, 128, True), (1, 64, True)):
        inputs = [found.random(sum(lens), h, dh) for _ in range(3)]
        attend = lambda way: lambda q, k, v: way(q, k, v, Sequences(lens, found.device, way), causal, 0.0)
        what = f"{h} heads of {dh}, {'causal' if causal else 'full'}"
        found.op("attention", f"{what}, {name}", attend(way), inputs, attend(by_mask))


def products_of(found):
    for t, i, o in ((67, 256, 128), (130, 100, 33), (1, 64, 64), (9, 7, 5)):
        found.op("linear", f"[{t}, {i}] x [{o}, {i}]", F.linear, [found.random(t, i), found.random(o, i), found.random(o)])
    for c_in, c_out, kernel, stride in ((1, 24, 10, 5), (16, 24, 3, 2), (9, 5, 2, 2)):
        inputs = [found.random(1, c_in, 121), found.random(c_out, c_in, kernel), found.random(c_out)]
        found.op("conv1d", f"{kernel} x {c_in} to {c_out}", lambda x, w, b, s=stride: F.conv1d(x, w, b, stride=s), inputs)
    for d, groups, kernel in ((32, 4, 16), (12, 3, 5)):
        inputs = [found.random(1, d, 40), found.random(d, d // groups, kernel), found.random(d)]
        conv = lambda x, w, b, g=groups, k=kernel: F.conv1d(x, w, b, padding=k // 2, groups=g)
        found.op("pos_conv", f"{d} channels, {groups} groups, kernel {kernel}", conv, inputs)
    labels = (torch.arange(40) * 31 % 1003).to(found.device)
    head = lambda x, w: F.cross_entropy(F.linear(x, w).float(), labels, reduction="sum")
    exact = lambda x, w: F.cross_entropy(F.linear(x, w), labels, reduction="sum")
    found.op("linear_cross_entropy", "40 rows, 1003 classes", head, [found.random(40, 72), found.random(1003, 72)], exact)


def errors(device):
    """Each op's errors, and the worst of each op's comparisons."""
    found = Found(device)
    for part in (rows_of, sequences_of, products_of):
        part(found)
    worst = {}
    for row in found.rows:
        worst[row["op"]] = max(worst.get(row["op"], 0.0), row["worst"])
    return [{"op": op, "dtype": "bf16", "worst": e, "comparisons": [r for r in found.rows if r["op"] == op]} for op, e in worst.items()]
