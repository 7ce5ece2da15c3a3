"""PyTorch op by op on a GPU, at the shapes and under the names of `echat gpu-check --full` (trainer/src/gpu_check/speed.rs): milliseconds,
and shares of what a copy and a matrix product reach in the same run. And bf16 errors, see gpu_errors.py. One JSON file.

    python3 tests/peers/gpu_ops.py --json gpu-ops.json [--ours gpu-check.json] [--tiny --device cpu]

Every op is run by PyTorch eager and compiled; attention over equal lengths by the flash and the cuDNN kernels of scaled_dot_product_attention, and
by flash over packed rows. Backward is timed without forward. With --ours, a table of both.
"""

import argparse
import json
import signal
import sys
import time

import torch
import torch.nn.functional as F
from gpu_errors import errors
from gpu_sizes import about, wait
from packed_attention import Sequences, choose
from torch.nn.attention import SDPBackend, sdpa_kernel

# backward() here runs again and again over what one forward saved.
torch._functorch.config.donated_buffer = False


def seconds(device, f):
    """The least of five means, each long enough to be timed from the host."""
    f()
    f()
    wait(device)
    begun = time.perf_counter()
    f()
    wait(device)
    times = min(max(round(0.03 / (time.perf_counter() - begun)), 1), 200)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(times):
            f()
        wait(device)
        best = min(best, (time.perf_counter() - begun) / times)
    return best


class Bench:
    def __init__(self, device, tiny):
        self.device, self.tiny, self.rows, self.least = device, tiny, [], 1 / 64 if tiny else 1
        self.copy = self.gemm = None

    def size(self, n):
        return max(int(n * self.least), 64)

    def random(self, *shape):
        return torch.rand(shape, device=self.device, dtype=torch.bfloat16) * 2 - 1

    def add(self, name, way, bytes_or_flop, kind, f):
        """Times `f`; what PyTorch cannot do is a line, not the end."""
        try:
            taken = seconds(self.device, f)
        except Exception as error:  # noqa: BLE001
            print(f"# {name}, {way}: {type(error).__name__}: {str(error).splitlines()[0][:150]}", flush=True)
            return
        rate = bytes_or_flop / taken
        ceiling, unit, key = (self.copy, "GB/s", "copy") if kind == "bytes" else (self.gemm, "TFLOP/s", "gemm")
        row = {"name": name, "way": way, "ms": 1e3 * taken, f"{'bytes' if kind == 'bytes' else 'flop'}_per_s": rate, f"share_of_{key}": rate / ceiling}
        self.rows.append(row)
        shown = rate / (1e9 if kind == "bytes" else 1e12)
        print(f"{name}, {way}: {row['ms']:.3f} ms, {shown:.0f} {unit}, {100 * rate / ceiling:.0f} %", flush=True)

    def both(self, name, f, inputs, amount, backward=None, grad=None, kind="bytes", wanted=None, ways=("eager", "compile")):
        """Forward and, if `backward` says how much that is, backward of `f`, eager and compiled. `wanted`: whose gradients."""
        for way in ways:
            g = torch.compile(f, dynamic=False) if way == "compile" else f
            leaves = [x.detach().requires_grad_(wanted is None or i in wanted) for i, x in enumerate(inputs)]
            with torch.no_grad():
                self.add(name.format("forward"), way, amount, kind, lambda: g(*inputs))
            if backward is None:
                continue
            try:
                out = g(*leaves)
            except Exception as error:  # noqa: BLE001
                print(f"# {name}, {way}: {error}", flush=True)
                continue
            into = [x for x in leaves if x.requires_grad]
            self.add(name.format("backward"), way, backward, kind, lambda: torch.autograd.grad(out, into, grad, retain_graph=True))


def ceilings(bench):
    flat, n = bench.random(bench.size(1 << 29)), bench.size(8192)
    taken = seconds(bench.device, flat.clone)
    bench.copy = 2 * flat.numel() * 2 / taken
    a, b = bench.random(n, n), bench.random(n, n)
    bench.gemm = 2 * n**3 / seconds(bench.device, lambda: F.linear(a, b))
    print(f"copy: {bench.copy / 1e9:.0f} GB/s; bf16 product: {bench.gemm / 1e12:.0f} TFLOP/s", flush=True)


def layer_sum(raw, *layers):
    weights = raw.softmax(0).to(layers[0].dtype)
    mixed = sum(w * x for w, x in zip(weights, layers))
    return mixed, torch.stack([x.view(-1, 128, x.shape[1]).mean(1) for x in layers])


def rows_ops(bench):
    t, count = bench.size(8192), 24
    layers, raw = [bench.random(t, 1024) for _ in range(count)], torch.zeros(count, device=bench.device)
    one, grad = 2 * t * 1024, bench.random(t, 1024)
    if t % 128 == 0:
        bench.both(f"layer_sum {{}}, {count} layers [{t}, 1024], with means", layer_sum, [raw, *layers], one * (count + 1))
    mixed = lambda raw, *layers: sum(w * x for w, x in zip(raw.softmax(0).to(layers[0].dtype), layers))
    bench.both(f"layer_sum {{}}, {count} layers [{t}, 1024]", mixed, [raw, *layers], one * (count + 1), one * (2 * count + 1), grad)
    for d in (1024, 4096):
        x, g, w = bench.random(t, d), bench.random(t, d), bench.random(d)
        one = 2 * t * d
        rms = lambda x, w: F.rms_norm(x, (x.shape[1],), w, 1e-6)
        bench.both(f"rms_norm {{}} [{t}, {d}]", rms, [x, w], 2 * one, 3 * one, g, wanted=[0])
        norm = lambda x, w, b: F.layer_norm(x, (x.shape[1],), w, b)
        bench.both(f"layer_norm {{}} [{t}, {d}]", norm, [x, w, w.clone()], 2 * one, 3 * one, g)
        if d == 4096:
            added = lambda x, a, w: (x + a, rms(x + a, w))
            bench.both(f"residual and rms_norm {{}} [{t}, {d}]", added, [x, g, w], 4 * one, 4 * one, (g, g), wanted=[0, 1])
        else:
            added = lambda x, a, w, b: (x + a, norm(x + a, w, b))
            bench.both(f"residual and layer_norm {{}} [{t}, {d}]", added, [x, g, w, w.clone()], 4 * one, 4 * one, (g, g))
    t *= 8
    x, g, w = bench.random(t, 512), bench.random(t, 512), bench.random(512)
    f = lambda x, w, b: F.gelu(F.layer_norm(x, (x.shape[1],), w, b))
    bench.both(f"layer_norm and gelu {{}} [{t}, 512]", f, [x, w, w.clone()], 4 * t * 512, 6 * t * 512, g)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def pointwise(bench):
    t, d = bench.size(8192), 11008 if not bench.tiny else 172
    gate, up, g = bench.random(t, d), bench.random(t, d), bench.random(t, d)
    one = 2 * t * d
    bench.both(f"swiglu {{}} [{t}, {d}]", lambda a, b: F.silu(a) * b, [gate, up], 3 * one, 5 * one, g)
    x, b, g = bench.random(t, 4096), bench.random(4096), bench.random(t, 4096)
    one = 2 * t * 4096
    bench.both(f"bias and gelu {{}} [{t}, 4096]", lambda x, b: F.gelu(x + b), [x, b], 2 * one, 3 * one, g)
    angle = (torch.arange(t, device=bench.device) % 512)[:, None] * 10000.0 ** (-torch.arange(64, device=bench.device) / 64)
    cos, sin = (f(torch.cat([angle, angle], -1))[:, None].bfloat16() for f in (torch.cos, torch.sin))
    bench.both(f"rope [{t}, 32, 128]", rotate, [x.view(t, 32, 128), cos, sin], 2 * one)


def attention(bench):
    rows, (name, way) = bench.size(16384), choose(bench.device)
    for h, dh, causal in ((16, 64, False), (32, 128, True)):
        for length in (128, 512, 1024, 2048) if not bench.tiny else (128,):
            what = f"{h} heads of {dh}, {'causal' if causal else 'full'}, length {length}"
            flop = 4 * rows * length * h * dh * (0.5 if causal else 1)
            x = [bench.random(rows, h, dh) for _ in range(4)]
            seq = Sequences([length] * (rows // length), bench.device, way)
            packed = lambda q, k, v: way(q, k, v, seq, causal, 0.0)
            bench_attention(bench, what, f"{name}", packed, x, flop)
            x = [y.view(-1, length, h, dh).transpose(1, 2) for y in x]
            for backend, label in ((SDPBackend.FLASH_ATTENTION, "SDPA, flash"), (SDPBackend.CUDNN_ATTENTION, "SDPA, cuDNN")):

                def forced(q, k, v, backend=backend):
                    with sdpa_kernel(backend):
                        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

                bench_attention(bench, what, label, forced, x, flop)


def bench_attention(bench, what, label, f, inputs, flop):
    *qkv, grad = inputs
    with torch.no_grad():
        bench.add(f"attention forward, {what}", label, flop, "flop", lambda: f(*qkv))
    try:
        leaves = [y.detach().requires_grad_() for y in qkv]
        out = f(*leaves)
    except Exception:  # noqa: BLE001  forward has said so
        return
    back = lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)
    bench.add(f"attention backward, {what}", label, 2.5 * flop, "flop", back)


def head_and_update(bench):
    rows, v, d = bench.size(2048), 125_696 if not bench.tiny else 1964, 4096
    x, w = bench.random(rows, d).requires_grad_(), bench.random(v, d)
    labels = torch.arange(rows, device=bench.device) % v
    f = lambda x: F.cross_entropy(F.linear(x, w).float(), labels, reduction="sum")
    for way in ("eager", "compile"):
        g = torch.compile(f, dynamic=False) if way == "compile" else f
        name = f"linear and cross-entropy, {rows} rows, [{v}, {d}] frozen"
        bench.add(name, way, 4 * rows * v * d, "flop", lambda: torch.autograd.grad(g(x), x))
    n = bench.size(100_000_000)
    p = torch.zeros(n, device=bench.device, requires_grad=True)
    p.grad, compute = torch.zeros(n, device=bench.device), torch.zeros(n, device=bench.device, dtype=torch.bfloat16)
    update = torch.optim.AdamW([p], lr=1e-4, betas=(0.9, 0.98), fused=True)

    def step():
        update.step()
        compute.copy_(p.detach())

    bench.add(f"adamw, {n // 1_000_000}M parameters", "fused, and a bf16 copy", 30 * n, "bytes", step)


def compare(rows, found, path):
    """Both sides' figures, op by op: PyTorch's best way, and its errors beside ours."""
    ours = json.loads(open(path).read())
    best = {}
    for row in rows:
        if row["ms"] < best.get(row["name"], {"ms": float("inf")})["ms"]:
            best[row["name"]] = row
    print("\n| op | echat ms | PyTorch ms | PyTorch's way | echat / PyTorch, speed |\n|---|---:|---:|---|---:|")
    for row in ours.get("speed", {}).get("kernels", []):
        # Ours is told of a frozen weight in the name.
        peer = best.get(row["name"].replace(", frozen [", " [")) or best.get(row["name"])
        if peer:
            print(f"| {row['name']} | {row['ms']:.3f} | {peer['ms']:.3f} | {peer['way']} | {peer['ms'] / row['ms']:.2f} |")
    print("\n| op, bf16 | echat's worst error | PyTorch's |\n|---|---:|---:|")
    worst = {e["op"]: e["worst"] for e in found}
    for row in ours.get("kernels", []):
        if row["dtype"] == "bf16" and row["op"] in worst:
            print(f"| {row['op']} | {row['error']:.2e} | {worst[row['op']]:.2e} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write everything to this file")
    parser.add_argument("--ours", help="what `echat gpu-check --full --json` wrote: print both")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu_ops.py: no GPU that PyTorch sees; --tiny --device cpu tries the script without one")
    device = torch.device(args.device)
    torch.manual_seed(0)
    bench = Bench(device, args.tiny)
    found = errors(device)
    ceilings(bench)
    # Stopped for lack of time, what was found by then is there.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped before its end"))
    try:
        for part in (attention, head_and_update, rows_ops, pointwise):
            part(bench)
    finally:
        # Written before the comparison: whatever is wrong with the other file, this one is there.
        if args.json:
            with open(args.json, "w") as file:
                json.dump(about(device) | {"copy_bytes_per_s": bench.copy, "gemm_flop_per_s": bench.gemm, "kernels": bench.rows, "errors": found}, file, indent=1)
        try:
            if args.ours:
                compare(bench.rows, found, args.ours)
        except OSError as error:
            print(f"# {error}")


if __name__ == "__main__":
    main()
