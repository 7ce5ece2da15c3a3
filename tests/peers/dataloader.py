"""How fast a PyTorch DataLoader fills normalised f32 batches from the wav files of a manifest: prints audio-hours per hour.

    python3 tests/peers/dataloader.py pad|pack manifest.jsonl

The peer of trainer/benches/loader.rs, which runs it: 2 worker processes, batches of at most 120 s of utterances of all lengths, each
brought to zero mean and unit variance, and padded to the longest as is usual, or concatenated as echat does. Files are read by soundfile if there is one, else by the wave module and
numpy. One epoch goes before, so that workers run and the files are in the page cache; two are timed.
"""

import json
import pathlib
import random
import sys
import time
import wave

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

try:
    import soundfile
except ImportError:
    soundfile = None

SECONDS = 120.0


def read(path):
    if soundfile is not None:
        return torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    with wave.open(path) as f:
        samples = np.frombuffer(f.readframes(f.getnframes()), dtype=np.int16)
    return torch.from_numpy(samples.astype(np.float32) / 32768.0)


class Recordings(Dataset):
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        x = read(self.paths[i])
        return (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-7)


class Batches:
    """Shuffled utterances, as many at a time as fit."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __iter__(self):
        order = list(range(len(self.seconds)))
        random.shuffle(order)
        batch, total = [], 0.0
        for i in order:
            if batch and total + self.seconds[i] > SECONDS:
                yield batch
                batch, total = [], 0.0
            batch.append(i)
            total += self.seconds[i]
        yield batch


def pad(waves):
    return pad_sequence(waves, batch_first=True), torch.tensor([len(w) for w in waves])


def pack(waves):
    return torch.cat(waves), torch.tensor([len(w) for w in waves])


def main():
    collate, manifest = {"pad": pad, "pack": pack}[sys.argv[1]], pathlib.Path(sys.argv[2])
    lines = [json.loads(line) for line in manifest.read_text().splitlines() if line]
    paths = [str(manifest.parent / line["audio_filepath"]) for line in lines]
    seconds = []
    for path in paths:
        with wave.open(path) as f:
            seconds.append(f.getnframes() / f.getframerate())
    loader = DataLoader(
        Recordings(paths), batch_sampler=Batches(seconds), collate_fn=collate, num_workers=2, persistent_workers=True, prefetch_factor=2
    )
    for _ in loader:
        pass
    begun, samples = time.perf_counter(), 0
    for _ in range(2):
        for _, lens in loader:
            samples += int(lens.sum())
    print(samples / 16000 / (time.perf_counter() - begun))


main()
