"""The matrix product beside PyTorch's, at the shapes of `kernels/benches/gemm.rs`, as a Markdown table.

    python3 tests/peers/gemm.py --threads 1
    python3 tests/peers/gemm.py --simd avx512 avx2      # a column for each of echat's instruction sets

PyTorch and the bench take turns, `--rounds` times, so that both see the same machine. A figure is the fastest sample of
all rounds, a sample the mean over about 10 ms of calls; on a machine shared with others that is what repeats best.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
OURS, PEERS = "echat", ["gemm crate", "candle"]


def shapes():
    """The bench's own table: (m, n, k, what, A transposed, B transposed)."""
    source = (ROOT / "kernels/benches/gemm.rs").read_text()
    row = re.compile(r"\((\d+), (\d+), (\d+), \"([^\"]+)\", (true|false), (true|false)\)")
    found = [(int(m), int(n), int(k), what, a == "true", b == "true") for m, n, k, what, a, b in row.findall(source)]
    if not found:
        sys.exit("gemm.py: no shapes in kernels/benches/gemm.rs; has its table changed?")
    return found


def operand(rows, columns, transposed):
    return torch.randn(columns, rows).t() if transposed else torch.randn(rows, columns)


def time_torch(m, n, k, a_transposed, b_transposed, samples=30, seconds=0.01):
    a, b, out = operand(m, k, a_transposed), operand(k, n, b_transposed), torch.empty(m, n)
    begin = time.perf_counter()
    for _ in range(3):
        torch.mm(a, b, out=out)
    calls = max(1, round(seconds / ((time.perf_counter() - begin) / 3)))
    best = float("inf")
    for _ in range(samples):
        begin = time.perf_counter()
        for _ in range(calls):
            torch.mm(a, b, out=out)
        best = min(best, (time.perf_counter() - begin) / calls)
    return best


def time_bench(threads, simd):
    """Runs the bench; the fastest sample in seconds by (group, function)."""
    with tempfile.TemporaryDirectory() as home:
        command = "cargo bench -q -p echat-kernels --bench gemm --"
        options = "--warm-up-time 0.1 --measurement-time 0.3 --noplot --quiet"
        env = os.environ | {"RAYON_NUM_THREADS": str(threads), "CRITERION_HOME": home, "ECHAT_SIMD": simd}
        run = f"{command} {options}".split()
        subprocess.run(run, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        best = {}
        for sample in Path(home).glob("*/*/new/sample.json"):
            name = json.loads(sample.with_name("benchmark.json").read_text())
            numbers = json.loads(sample.read_text())
            fastest = min(t / i for t, i in zip(numbers["times"], numbers["iters"]))
            function = name["function_id"]
            best[name["group_id"], f"{OURS} {simd}".strip() if function == OURS else function] = fastest * 1e-9
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--simd", nargs="+", default=[""], help="instruction sets of ECHAT_SIMD (the widest)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    subprocess.run("cargo bench -q -p echat-kernels --bench gemm --no-run".split(), cwd=ROOT, check=True)

    best = {}
    for _ in range(args.rounds):
        new = {}
        for simd in args.simd:
            new |= time_bench(args.threads, simd)
        for m, n, k, what, a, b in shapes():
            new[f"{m}x{n}x{k} {what}", "torch"] = time_torch(m, n, k, a, b)
        for key, seconds in new.items():
            best[key] = min(seconds, best.get(key, float("inf")))

    print(f"torch {torch.__version__}, {args.threads} thread(s), {args.rounds} rounds; GFLOP/s\n")
    ours = [f"{OURS} {simd}".strip() for simd in args.simd]
    ratios = [f"{name} / PyTorch" for name in ours]
    print("| " + " | ".join(["rows x columns x depth", *ours, "PyTorch", *ratios, *PEERS]) + " |")
    print("|---|" + "---:|" * (2 * len(ours) + 1 + len(PEERS)))
    for m, n, k, what, _, _ in shapes():
        group = f"{m}x{n}x{k} {what}"
        speed = {name: 2e-9 * m * n * k / best[group, name] for name in [*ours, "torch", *PEERS]}
        cells = [f"{speed[name]:.0f}" for name in [*ours, "torch"]]
        cells += [f"{speed[name] / speed['torch']:.2f}" for name in ours]
        cells += [f"{speed[name]:.0f}" for name in PEERS]
        print(f"| {m} x {n} x {k} {what} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
