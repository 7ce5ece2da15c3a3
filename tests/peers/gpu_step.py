"""PyTorch's full-size stage-1 step on a GPU: what `echat gpu-check --full` times, a JSON line for each variant.

    python3 tests/peers/gpu_step.py [--batch gpu-check.json] [--variant eager|tuned] [--check] [--tiny --device cpu]

HuBERT-large trains, a softmax sum over its layers, the 52M connector trains, Baichuan2-7B (LLaMA of those sizes, an output head of unit
rows) is frozen; random weights, the utterances and targets of `--batch`. Dropout and masking are as in HuBERT's config. Both clip to norm 1.

eager: transformers as it is used: padded batches in the order dealt, f32 weights under bf16 autocast, SDPA, logits and loss over every position,
fused AdamW. Where 240 s do not fit into memory at once, as few micro-batches as fit.
tuned: what PyTorch can: nothing padded, every layer compiled, bf16 weights with f32 masters, flash attention over packed sequences, the frozen
decoder's projections joined, logits for labelled rows alone, fused AdamW.

`--check` compares the two in f32 without dropout: losses and the gradient of every trained parameter.
"""

import argparse
import gc
import json
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
import transformers
from gpu_sizes import BOS, EOS, FULL, PROMPT, TINY, about, arithmetic, median, read_batch, sinusoids, timed
from torch.nn.utils.rnn import pad_sequence


class Layer(nn.Module):
    """A pre-norm Transformer layer of the connector, over a padded batch."""

    def __init__(self, width, heads, ffn, dropout):
        super().__init__()
        self.heads, self.p = heads, dropout
        self.attn_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, ffn), nn.Linear(ffn, width)

    def drop(self, x):
        return F.dropout(x, self.p, self.training)

    def forward(self, x, mask):
        h = self.attn_norm(x)
        heads = [f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj)]
        y = F.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2).flatten(2)
        x = x + self.drop(self.o_proj(y))
        return x + self.drop(self.fc2(self.drop(F.relu(self.fc1(self.ffn_norm(x))))))


class Connector(nn.Module):
    def __init__(self, sizes, d_in, d_out):
        super().__init__()
        self.k, width, self.p = sizes["stack"], sizes["width"], sizes["dropout"]
        self.stack, self.stack_norm = nn.Linear(self.k * d_in, width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, sizes["heads"], sizes["ffn"], self.p) for _ in range(sizes["layers"]))
        self.norm, self.proj = nn.LayerNorm(width), nn.Linear(width, d_out)

    def forward(self, x, lens):
        """x [n, t, d] of which `lens` are frames."""
        x = x.masked_fill((torch.arange(x.shape[1], device=x.device) >= lens[:, None])[..., None], 0)
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.k))
        x = self.stack_norm(self.stack(x.reshape(len(x), -1, self.k * x.shape[2])))
        places = torch.arange(x.shape[1], device=x.device)
        x = F.dropout(x + sinusoids(places, x.shape[2]).to(x.dtype), self.p, self.training)
        lens = (lens + self.k - 1) // self.k
        mask = (places < lens[:, None])[:, None, None]
        for layer in self.layers:
            x = layer(x, mask)
        return self.proj(self.norm(x)), lens


class Model(nn.Module):
    """The whole model; `forward` is the variant `eager`."""

    def __init__(self, sizes, device, frozen):
        super().__init__()
        config = transformers.HubertConfig(**sizes["encoder"])
        llama = transformers.LlamaConfig(**sizes["decoder"])
        config._attn_implementation = llama._attn_implementation = "sdpa"
        with torch.device(device):
            self.encoder = transformers.HubertModel(config)
            self.layer_weights = nn.Parameter(torch.zeros(config.num_hidden_layers))
            self.connector = Connector(sizes["connector"], config.hidden_size, llama.hidden_size)
            torch.set_default_dtype(frozen)
            self.llm = transformers.LlamaForCausalLM(llama)
            torch.set_default_dtype(torch.float32)
        # The one tensor that heeds no device above.
        self.encoder.masked_spec_embed = nn.Parameter(self.encoder.masked_spec_embed.detach().to(device))
        self.llm.requires_grad_(False)
        head = self.llm.lm_head.weight
        head.copy_(F.normalize(head.float()))

    def trained(self):
        return [p for p in self.parameters() if p.requires_grad]

    def speech(self, waves, lens):
        mask = (torch.arange(waves.shape[1], device=waves.device) < lens[:, None]).long()
        heard = self.encoder(waves, attention_mask=mask, output_hidden_states=True)
        layers = [*heard.hidden_states[1:-1], heard.last_hidden_state]
        assert len(layers) == len(self.layer_weights)
        mixed = sum(w * h for w, h in zip(self.layer_weights.softmax(0), layers))
        return self.connector(mixed, self.encoder._get_feat_extract_output_lengths(lens))

    def forward(self, waves, lens, targets, count):
        speech, lens = self.speech(waves, lens)
        embed, device = self.llm.model.embed_tokens, waves.device
        before, prompt = embed(torch.tensor([BOS], device=device)), embed(torch.arange(PROMPT, device=device) + 100 % embed.num_embeddings)
        rows = [torch.cat([before, s[:n].to(before.dtype), prompt, embed(t)]) for s, n, t in zip(speech, lens.tolist(), targets)]
        labels = [torch.cat([t.new_full((len(r) - len(t),), -100), t]) for r, t in zip(rows, targets)]
        # Padding is on the right, where causal attention does not see it: no mask, so that SDPA may take its flash kernels.
        rows, labels = pad_sequence(rows, batch_first=True), pad_sequence(labels, batch_first=True, padding_value=-100)
        return self.llm(inputs_embeds=rows, labels=labels, num_items_in_batch=count, use_cache=False).loss


class Speech:
    """The batch's numbers, on the host."""

    def __init__(self, batch, vocab, pin):
        noise = torch.Generator().manual_seed(0)
        self.waves = [1.7 * (2 * torch.rand(n, generator=noise) - 1) for n in batch.samples]
        draw = lambda n: torch.cat([torch.randint(3, vocab, (n - 1,), generator=noise), torch.tensor([EOS])])
        self.targets = [draw(n) for n in batch.targets]
        self.pin = pin
        self.count = sum(batch.targets)

    def padded(self, which):
        """Utterances `which`: waveforms and how long they are."""
        waves = pad_sequence([self.waves[i] for i in which], batch_first=True)
        lens = torch.tensor([len(self.waves[i]) for i in which])
        return (waves.pin_memory(), lens.pin_memory()) if self.pin else (waves, lens)


class Eager:
    """Forward, backward and update as transformers' users write it."""

    def __init__(self, model, speech, device, splits=1):
        self.model, self.speech, self.device = model, speech, device
        self.optimizer = torch.optim.AdamW(model.trained(), lr=1e-4, betas=(0.9, 0.98), fused=True)
        self.split(splits)

    def split(self, splits):
        n, self.splits = len(self.speech.waves), splits
        cuts = [n * i // splits for i in range(splits + 1)]
        self.parts = [range(a, b) for a, b in zip(cuts, cuts[1:])]
        self.batches = [(*self.speech.padded(part), [self.speech.targets[i] for i in part]) for part in self.parts]

    def differentiate(self, autocast=True):
        total = 0.0
        for waves, lens, targets in self.batches:
            waves, lens = (x.to(self.device, non_blocking=True) for x in (waves, lens))
            targets = [t.to(self.device, non_blocking=True) for t in targets]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
                loss = self.model(waves, lens, targets, self.speech.count)
            loss.backward()
            total += loss.detach()
        return total

    def step(self):
        loss = self.differentiate()
        torch.nn.utils.clip_grad_norm_(self.model.trained(), 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def fit(self):
        """As few micro-batches as memory holds."""
        while True:
            try:
                self.step()
                return
            except torch.OutOfMemoryError:
                if self.splits >= len(self.speech.waves):
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            gc.collect()
            torch.cuda.empty_cache()
            self.split(min(2 * self.splits, len(self.speech.waves)))

    def told(self):
        positions = sum(w.numel() for w, _, _ in self.batches) / 16000
        return {"micro_batches": self.splits, "seconds_with_padding": positions}


def measure(name, peer, flop, batch, device, args):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    getattr(peer, "fit", peer.step)()
    first = time.perf_counter() - begun
    times = timed(device, peer.step, args.warm, args.count)
    ms, loss = median(times), peer.step().item()
    peak = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()) if device.type == "cuda" else (0, 0)
    row = {
        "variant": name, "step_ms": ms, "step_ms_all": times, "seconds_of_speech": batch.seconds, "utterances": len(batch.samples),
        "batch": batch.source, "audio_hours_per_gpu_hour": batch.seconds / (ms / 1e3), "flop": flop, "flop_per_s": flop / (ms / 1e3),
        "peak_bytes": peak[0], "reserved_bytes": peak[1], "loss": loss, "first_step_s": first,
    }
    line = json.dumps(row | peer.told() | about(device) | {"transformers": transformers.__version__})
    print(line, flush=True)
    if args.json:
        with open(args.json, "a") as file:
            file.write(line + "\n")


def check(model, speech, batch, device):
    """Both variants in f32, nothing dropped, nothing masked."""
    from gpu_tuned import Tuned

    model.eval()
    eager = Eager(model, speech, device)
    want = eager.differentiate(autocast=False).item()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    tuned = Tuned(model, speech, batch, device, dtype=torch.float32, compiled=False)
    got = tuned.differentiate().item()
    errors = {n: ((p.grad - grads[n]).norm() / grads[n].norm().clamp_min(1e-9)).item() for n, p in model.named_parameters() if n in grads}
    worst = max(errors, key=errors.get)
    missing = [n for n, p in model.named_parameters() if p.requires_grad and n not in grads and "masked_spec_embed" not in n]
    print(json.dumps({"eager_loss": want, "tuned_loss": got, "worst_gradient": worst, "difference": errors[worst], "missing": missing}))
    # A norm in front of keys' biases: their gradient is zero but for rounding.
    bad = [n for n, e in errors.items() if not e < 1e-3 and "k_proj.bias" not in n]
    return abs(want - got) < 1e-5 * abs(want) and not bad and not missing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", help="what `echat gpu-check --full --json` wrote")
    parser.add_argument("--json", help="add the lines to this file too")
    parser.add_argument("--variant", choices=["both", "eager", "tuned"], default="both")
    parser.add_argument("--seconds", type=float, default=0, help="of speech, if there is no --batch (240; with --tiny 9)")
    parser.add_argument("--splits", type=int, default=1, help="micro-batches the variant eager begins with")
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu_step.py: no GPU that PyTorch sees; --tiny --device cpu tries the script without one")
    device, sizes = torch.device(args.device), TINY if args.tiny else FULL
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("highest" if args.check else "high")
    batch = read_batch(args.batch, args.seconds or (9.0 if args.tiny else 240.0))
    model = Model(sizes, device, torch.float32 if args.check else torch.bfloat16)
    flop = arithmetic(model.encoder.config, model.llm.config, sizes["connector"], batch)
    speech = Speech(batch, model.llm.config.vocab_size, pin=device.type == "cuda")
    if args.check:
        sys.exit(0 if check(model, speech, batch, device) else "gpu_step.py: the variants differ")
    model.train()
    model.llm.eval()
    if args.variant != "tuned":
        eager = Eager(model, speech, device, args.splits)
        measure("eager", eager, flop, batch, device, args)
        del eager
        model.zero_grad(set_to_none=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if args.variant != "eager":
        from gpu_tuned import Tuned

        measure("tuned", Tuned(model, speech, batch, device), flop, batch, device, args)


if __name__ == "__main__":
    main()
