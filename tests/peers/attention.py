"""Packed attention against PyTorch's scaled_dot_product_attention on one CPU thread, at the same shapes, in one run.

    python3 tests/peers/attention.py [--rounds 2]

Runs `cargo bench -p echat-kernels --bench attention` and PyTorch in turn, `rounds` times, and prints a Markdown table of
the median CPU time of each: on one thread that is wall time, without what else the machine does. PyTorch does each shape
in two ways: a call per sequence, and one padded batch with a key mask.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHORT = [30 + 50 * i // 15 for i in range(16)]
LONG = [500 + 1000 * i // 3 for i in range(4)]
# As in kernels/benches/attention.rs: name, lengths, heads, head width, causal, dropout.
CASES = [
    ("16 of 30-80, 4x32", SHORT, 4, 32, False, 0.0),
    ("16 of 30-80, 4x32, causal", SHORT, 4, 32, True, 0.0),
    ("16 of 30-80, 4x32, dropout", SHORT, 4, 32, False, 0.1),
    ("4 of 500-1500, 4x64", LONG, 4, 64, False, 0.0),
    ("4 of 500-1500, 4x64, causal", LONG, 4, 64, True, 0.0),
]


def echat():
    """The median seconds per iteration of each benchmark."""
    command = "cargo bench -q -p echat-kernels --bench attention -- --noplot --sample-size 20".split()
    command += ["--warm-up-time", "0.5", "--measurement-time", "4"]
    env = dict(os.environ, RAYON_NUM_THREADS="1")
    subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    medians = {}
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    for sample in target.glob("criterion/attention*/**/new/sample.json"):
        name = json.loads((sample.parent / "benchmark.json").read_text())["full_id"]
        sample = json.loads(sample.read_text())
        medians[name] = statistics.median(t / n for t, n in zip(sample["times"], sample["iters"])) / 1e9
    return medians


def median(f, runs=20, seconds=0.1):
    """The median seconds of `f` over `runs` runs of about `seconds` each, as the Rust side is timed."""
    f()
    start = time.process_time()
    f()
    count = max(1, round(seconds / (time.process_time() - start)))
    times = []
    for _ in range(runs):
        start = time.process_time()
        for _ in range(count):
            f()
        times.append((time.process_time() - start) / count)
    return statistics.median(times)


def timed(leaves, grad, attend):
    """The seconds of the forward pass, and of forward and backward."""

    def both():
        for x in leaves:
            x.grad = None
        attend().backward(grad)

    with torch.no_grad():
        forward = median(attend)
    return forward, median(both)


def per_sequence(lens, h, dh, causal, p):
    q, k, v, grad = (torch.randn(sum(lens), h, dh) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v)]

    def attend():
        parts, start = [], 0
        for n in lens:
            q1, k1, v1 = (x[start : start + n].transpose(0, 1)[None] for x in leaves)
            out = F.scaled_dot_product_attention(q1, k1, v1, is_causal=causal, dropout_p=p)
            parts.append(out[0].transpose(0, 1))
            start += n
        return torch.cat(parts)

    return timed(leaves, grad, attend)


def padded(lens, h, dh, causal, p):
    n, longest = len(lens), max(lens)
    q, k, v, grad = (torch.randn(n, h, longest, dh) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    mask = (torch.arange(longest) < torch.tensor(lens)[:, None])[:, None, None, :]
    if causal:
        mask = mask & torch.ones(longest, longest, dtype=torch.bool).tril()
    return timed(leaves, grad, lambda: F.scaled_dot_product_attention(*leaves, attn_mask=mask, dropout_p=p))


def decode():
    q, k = torch.randn(1, 16, 1, 64), torch.randn(1, 16, 2048, 64)
    with torch.no_grad():
        return median(lambda: F.scaled_dot_product_attention(q, k, k))


def keep_best(into, key, value):
    into[key] = min(into.get(key, float("inf")), value)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    best = {}
    for _ in range(args.rounds):
        for name, seconds in echat().items():
            keep_best(best, name, seconds)
        for name, *case in CASES:
            for way in (per_sequence, padded):
                forward, both = way(*case)
                keep_best(best, (name, way, "forward"), forward)
                keep_best(best, (name, way, "both"), both)
        keep_best(best, "decode", decode())

    print(f"PyTorch {torch.__version__}, one thread, CPU time, best of {args.rounds} rounds, milliseconds\n")
    print("| shape | pass | echat | PyTorch per sequence | PyTorch padded | times faster than the better |")
    print("|---|---|---:|---:|---:|---:|")
    for name, *_ in CASES:
        forward = best[f"attention {name}/forward"]
        for label, ours in [("forward", forward), ("both", forward + best[f"attention {name}/backward"])]:
            loop, batch = best[name, per_sequence, label], best[name, padded, label]
            text = {"forward": "forward", "both": "forward + backward"}[label]
            times = min(loop, batch) / ours
            print(f"| {name} | {text} | {ours * 1e3:.2f} | {loop * 1e3:.2f} | {batch * 1e3:.2f} | {times:.2f} |")
    ours, torch_time = best["attention 1 query, 2048 keys, 16x64, forward"], best["decode"]
    print(f"| 1 query, 2048 keys, 16x64 | forward | {ours * 1e3:.2f} | {torch_time * 1e3:.2f} | | {torch_time / ours:.2f} |")


if __name__ == "__main__":
    main()
