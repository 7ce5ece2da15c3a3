"""What the GPU peers have in common: the models' sizes, a step's batch, its arithmetic, and timing. See gpu_step.py."""

import json
import math
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

RATE = 16000
# TencentGameMate/chinese-hubert-large, baichuan-inc/Baichuan2-7B-Chat, echat's default connector: trainer/src/gpu_check/model.rs.
FULL = {
    "encoder": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "conv_bias": False, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "layerdrop": 0.0,
    },
    "decoder": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 125696,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    },
    "connector": {"stack": 2, "width": 1024, "layers": 4, "heads": 16, "ffn": 4096, "dropout": 0.1},
}
TINY = {
    "encoder": {
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 72, "conv_dim": [16] * 7,
        "conv_bias": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4, "layerdrop": 0.0, "mask_time_length": 3,
    },
    "decoder": {
        "hidden_size": 64, "intermediate_size": 88, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 211,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    },
    "connector": {"stack": 2, "width": 32, "layers": 1, "heads": 2, "ffn": 48, "dropout": 0.1},
}
BOS, EOS = 1, 2
PROMPT = 6


@dataclass
class Batch:
    """Utterances in the order they are dealt: samples of speech and target tokens (EOS counted) of each."""

    samples: list
    targets: list
    source: str

    @property
    def seconds(self):
        return sum(self.samples) / RATE


def read_batch(path, seconds):
    """The batch of stage 1 in what `echat gpu-check --full --json` wrote; without it one of the same distribution."""
    if path and Path(path).is_file():
        for step in json.loads(Path(path).read_text()).get("steps", []):
            if step["stage"] == 1 and "batch" in step:
                return Batch(step["batch"]["samples"], step["batch"]["targets"], str(path))
    draw, samples, targets, left = random.Random(0), [], [], seconds
    while left > 0:
        length = min(max(2.1 * math.exp(0.59 * draw.gauss(0, 1)), 0.5), 20.0, max(left, 0.5))
        samples.append(int(length * RATE))
        targets.append(math.ceil(3.5 * length) + 1)
        left -= length
    return Batch(samples, targets, "drawn")


def conv_lens(config, samples):
    """Frames after each convolution of the encoder, for one utterance."""
    lens = [samples]
    for kernel, stride in zip(config.conv_kernel, config.conv_stride):
        lens.append((lens[-1] - kernel) // stride + 1)
    return lens[1:]


def arithmetic(encoder, decoder, connector, batch):
    """Operations of a step as echat counts them: a product once forward and once for each operand that wants a gradient, so 6N trained
    and 4N frozen; attention over pairs that meet; the head over labelled rows. Nothing of padding, of elementwise ops or of the update."""
    lens = [conv_lens(encoder, n) for n in batch.samples]
    total, c_in = 0.0, 1
    for i, (c_out, kernel) in enumerate(zip(encoder.conv_dim, encoder.conv_kernel)):
        total += (2 if i == 0 else 3) * 2 * kernel * c_in * c_out * sum(n[i] for n in lens)
        c_in = c_out
    d, frames = encoder.hidden_size, [n[-1] for n in lens]
    rows, pairs = sum(frames), sum(n * n for n in frames)
    position = encoder.num_conv_pos_embeddings * d // encoder.num_conv_pos_embedding_groups
    total += 6.0 * rows * (c_in * d + position * d)
    total += encoder.num_hidden_layers * (6.0 * rows * (4 * d * d + 2 * d * encoder.intermediate_size) + 12.0 * d * pairs)
    k, w = connector["stack"], connector["width"]
    stacked = [-(-n // k) for n in frames]
    rows, pairs = sum(stacked), sum(n * n for n in stacked)
    total += 6.0 * rows * (k * d * w + w * decoder.hidden_size)
    total += connector["layers"] * (6.0 * rows * (4 * w * w + 2 * w * connector["ffn"]) + 12.0 * w * pairs)
    read = [1 + s + PROMPT + t - 1 for s, t in zip(stacked, batch.targets)]
    h, rows, pairs = decoder.hidden_size, sum(read), sum(n * (n + 1) // 2 for n in read)
    total += decoder.num_hidden_layers * (4.0 * rows * (4 * h * h + 3 * h * decoder.intermediate_size) + 12.0 * h * pairs)
    return total + 4.0 * sum(batch.targets) * decoder.vocab_size * h


def sinusoids(positions, width):
    rate = torch.exp(torch.arange(0, width, 2, device=positions.device) * (-9.210340371976184 / width))
    angle = positions[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(device, step, warm=3, count=8):
    """Milliseconds of each of `count` steps after `warm`, in increasing order."""
    for _ in range(warm):
        step()
    times = []
    for _ in range(count):
        wait(device)
        begun = time.perf_counter()
        step()
        wait(device)
        times.append(1e3 * (time.perf_counter() - begun))
    return sorted(times)


def median(times):
    return statistics.median(times)


def about(device):
    """What this ran on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, "torch": torch.__version__}
