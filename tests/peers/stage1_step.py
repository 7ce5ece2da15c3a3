"""The miniature's stage-1 step beside the same model in PyTorch eager, as a Markdown table.

    python3 tests/peers/stage1_step.py --threads 2

Needs torch, transformers and what `./launch/quickstart` leaves behind: the release build, data/mini and assets/mini. PyTorch
and `echat train` take turns, `--rounds` times, on the same configuration, corpus and number of threads in one process. A figure is
seconds of audio per second of wall time at the median step of the best round; echat's includes reading and decoding the
recordings, PyTorch's has them in memory. PyTorch is given its best: batches of the same audio seconds made of utterances
of like length (hardly any padding), with and without padding masks, scaled-dot-product attention, logits at labelled positions only,
fused AdamW.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
import time
import tomllib
import wave
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
import transformers
from torch.nn.utils.rnn import pad_sequence

ROOT = Path(__file__).resolve().parents[2]
ASSETS, DATA = ROOT / "assets/mini", ROOT / "data/mini"
SETTINGS = tomllib.loads((ROOT / "configs/mini/model.toml").read_text())
STACK, WIDTH, HEADS, FFN, LAYERS, DROPOUT = (SETTINGS["connector"][k] for k in ("stack", "width", "heads", "ffn", "layers", "dropout"))
BATCH_SECONDS = SETTINGS["data"]["global_batch_seconds"]


class Layer(nn.Module):
    """A pre-norm Transformer layer of the connector."""

    def __init__(self):
        super().__init__()
        self.attn_norm, self.ffn_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.o_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, FFN), nn.Linear(FFN, WIDTH)

    def forward(self, x, mask):
        heads = self.qkv(self.attn_norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*heads, attn_mask=mask)
        x = x + F.dropout(self.o_proj(y.transpose(1, 2).flatten(2)), DROPOUT)
        return x + F.dropout(self.fc2(F.dropout(F.relu(self.fc1(self.ffn_norm(x))), DROPOUT)), DROPOUT)


class Connector(nn.Module):
    def __init__(self, d_in, d_out):
        super().__init__()
        self.stack, self.stack_norm = nn.Linear(STACK * d_in, WIDTH), nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.proj = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, d_out)

    def forward(self, x, lens):
        x = F.pad(x, (0, 0, 0, -x.shape[1] % STACK))
        x = self.stack_norm(self.stack(x.reshape(len(x), -1, STACK * x.shape[2])))
        angle = torch.arange(x.shape[1])[:, None] * torch.exp(torch.arange(0, WIDTH, 2) * (-9.21034 / WIDTH))
        x = x + torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
        mask = None if lens is None else (torch.arange(x.shape[1]) < lens[:, None])[:, None, None]
        for layer in self.layers:
            x = layer(x, mask)
        return self.proj(self.norm(x))


class Model(nn.Module):
    """Encoder, layer sum, connector, frozen Baichuan2 (LLaMA with an output head of unit rows)."""

    def __init__(self):
        super().__init__()
        config = transformers.HubertConfig(**json.loads((ASSETS / "encoder/config.json").read_text()))
        config._attn_implementation = "sdpa"
        self.encoder = transformers.HubertModel(config)
        sizes = json.loads((ASSETS / "decoder/config.json").read_text())
        keep = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"]
        llama = transformers.LlamaConfig(**{k: sizes[k] for k in keep}, tie_word_embeddings=False, attn_implementation="sdpa")
        self.llm = transformers.LlamaForCausalLM(llama).requires_grad_(False)
        self.layer_weights = nn.Parameter(torch.zeros(config.num_hidden_layers))
        self.connector = Connector(config.hidden_size, llama.hidden_size)

    def speech(self, waves, lens, masks):
        mask = (torch.arange(waves.shape[1]) < lens[:, None]).long() if masks else None
        layers = self.encoder(waves, attention_mask=mask, output_hidden_states=True)
        hidden = [*layers.hidden_states[1:-1], layers.last_hidden_state]
        mixed = sum(w * h for w, h in zip(self.layer_weights.softmax(0), hidden))
        out_lens = (self.encoder._get_feat_extract_output_lengths(lens) + STACK - 1) // STACK
        return self.connector(mixed, out_lens if masks else None), out_lens

    def forward(self, waves, lens, targets, prompt, masks):
        speech, out_lens = self.speech(waves, lens, masks)
        embed = self.llm.model.embed_tokens
        bos, eos = embed(torch.tensor([1])), torch.tensor([2])
        head, text = embed(prompt), [embed(t) for t in targets]
        rows = [torch.cat([bos, s[:n], head, t]) for s, n, t in zip(speech, out_lens.tolist(), text)]
        hidden = self.llm.model(inputs_embeds=pad_sequence(rows, batch_first=True)).last_hidden_state
        labelled = [h[len(r) - len(t) - 1 : len(r)] for h, r, t in zip(hidden, rows, targets)]
        logits = torch.cat(labelled) @ F.normalize(self.llm.lm_head.weight).T
        return F.cross_entropy(logits, torch.cat([torch.cat([t, eos]) for t in targets]))


def read_wav(path):
    with wave.open(str(path)) as f:
        samples = torch.frombuffer(bytearray(f.readframes(f.getnframes())), dtype=torch.int16).float() / 32768
    return (samples - samples.mean()) / torch.sqrt(samples.var(unbiased=False) + 1e-7)


def batches(seed=0):
    """The corpus, in memory, as batches of BATCH_SECONDS of utterances of like length."""
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(ASSETS / "decoder/tokenizer.json"))
    encode = lambda text: torch.tensor(tokenizer.encode(text, add_special_tokens=False))
    lines = [json.loads(line) for line in (DATA / "train.jsonl").read_text().splitlines()]
    utterances = sorted(((read_wav(DATA / u["audio_filepath"]), encode(u["text"])) for u in lines), key=lambda u: len(u[0]))
    out, batch = [], []
    for u in utterances:
        batch.append(u)
        if sum(len(w) for w, _ in batch) >= BATCH_SECONDS * 16000:
            waves, lens = pad_sequence([w for w, _ in batch], batch_first=True), torch.tensor([len(w) for w, _ in batch])
            out.append((waves, lens, [t for _, t in batch]))
            batch = []
    random.Random(seed).shuffle(out)
    return out, encode("Transcribe the speech.")


class Torch:
    def __init__(self, masks):
        torch.manual_seed(0)
        self.model, self.masks = Model().train(), masks
        self.model.llm.eval()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, fused=True)

    def step(self, batch, prompt):
        begun = time.perf_counter()
        loss = self.model(*batch, prompt, self.masks)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return batch[1].sum().item() / 16000 / (time.perf_counter() - begun)


def time_echat(threads, steps):
    """Audio seconds per second at the median step, of one process."""
    with tempfile.TemporaryDirectory() as out:
        sets = [f"output.dir={out}/run", f"train.steps={steps}", "train.log_every=1", "data.valid=[]", f"output.threads={threads}"]
        sets += ["checkpoint.every_steps=1000000", "data.micro_batch_seconds=48"]
        args = [arg for s in sets for arg in ("--set", s)]
        command = [str(ROOT / "target/release/echat"), "train", "configs/mini/stage1.toml", *args]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        records = [json.loads(line) for line in Path(f"{out}/run/metrics.jsonl").read_text().splitlines()]
    # In the first steps memory is taken from the system, here as in PyTorch.
    return statistics.median(r["speed/audio_hours_per_hour"] for r in records[5:] if "speed/audio_hours_per_hour" in r)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="steps of each contestant in each round")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    corpus, prompt = batches()
    padding = 1 - sum(b[1].sum().item() for b in corpus) / sum(b[0].numel() for b in corpus)
    peers = {"PyTorch, padding masks": Torch(True), "PyTorch, no masks": Torch(False)}
    best = dict.fromkeys([*peers, "echat"], 0.0)
    for peer in peers.values():
        [peer.step(batch, prompt) for batch in corpus[:5]]
    for _ in range(args.rounds):
        for name, peer in peers.items():
            speeds = [peer.step(corpus[i % len(corpus)], prompt) for i in range(args.steps)]
            best[name] = max(best[name], statistics.median(speeds))
        best["echat"] = max(best["echat"], time_echat(args.threads, args.steps))

    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {args.threads} thread(s), {args.rounds} rounds of {args.steps} steps of {BATCH_SECONDS:.0f} audio seconds;")
    print(f"{100 * padding:.1f} % padding in PyTorch's batches; load average at the end {load:.1f}\n")
    print("| | audio seconds per second | echat / it |\n|---|---:|---:|")
    for name, speed in best.items():
        print(f"| {name} | {speed:.0f} | {best['echat'] / speed:.2f} |")


if __name__ == "__main__":
    main()
