#!/usr/bin/env python3
"""Golden tensors for connectors, emotion branch, decoders, and one whole SGD step of stage 1 and stage 2.

    python3 tests/golden/make_model.py tests/golden/model

Needs torch and transformers (made with torch 2.15). Everything is computed in f64 from f32 weights and stored as f32. The connectors
and Baichuan2 are written out here from their definitions; LLaMA, Qwen2, Qwen3 and HuBERT are transformers' own.
"""
import json
import sys
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

OUT = Path(sys.argv[1])
D, D_LLM, WIDTH, HEADS, FFN, LAYERS, STACK, VOCAB = 32, 32, 16, 4, 24, 2, 2, 64
WINDOW, QUERIES = 5, 2


def randomise(module):
    for name, p in module.named_parameters():
        scale = 0.15 if p.dim() > 1 else 0.1
        base = 1.0 if p.dim() == 1 and "norm" in name and name.endswith("weight") else 0.0
        p.data = (base + scale * torch.randn(p.shape)).float().double()


def f32(tensors):
    return {k: v.detach().float().contiguous() for k, v in tensors.items()}


# ---- connectors -------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, width, d_keys):
        super().__init__()
        self.q_proj, self.o_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.k_proj, self.v_proj = nn.Linear(d_keys, width), nn.Linear(d_keys, width)

    def forward(self, x, memory):
        split = lambda t: t.unflatten(-1, (HEADS, -1)).transpose(-3, -2)
        y = F.scaled_dot_product_attention(split(self.q_proj(x)), split(self.k_proj(memory)), split(self.v_proj(memory)))
        return self.o_proj(y.transpose(-3, -2).flatten(-2))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn_norm, self.ffn_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        a = Attention(WIDTH, WIDTH)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = a.q_proj, a.k_proj, a.v_proj, a.o_proj
        self.attention = [a]
        self.fc1, self.fc2 = nn.Linear(WIDTH, FFN), nn.Linear(FFN, WIDTH)

    def forward(self, x):
        h = self.attn_norm(x)
        x = x + self.attention[0](h, h)
        return x + self.fc2(F.relu(self.fc1(self.ffn_norm(x))))


def stack(x):
    x = F.pad(x, (0, 0, 0, -len(x) % STACK))
    return x.reshape(-1, STACK * x.shape[1])


def sinusoids(n, d):
    position, i = torch.arange(n).double()[:, None], torch.arange(0, d, 2).double()
    angle = position * torch.exp(-i / d * torch.log(torch.tensor(10000.0).double()))
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :d]


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.stack, self.stack_norm = nn.Linear(STACK * D, WIDTH), nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.proj = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, D_LLM)

    def forward(self, x):
        x = self.stack_norm(self.stack(stack(x)))
        x = x + sinusoids(len(x), WIDTH)
        for layer in self.layers:
            x = layer(x)
        return self.proj(self.norm(x))


class TwoLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.stack, self.proj = nn.Linear(STACK * D, WIDTH), nn.Linear(WIDTH, D_LLM)

    def forward(self, x):
        return self.proj(F.relu(self.stack(stack(x))))


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(c, WIDTH, 3, stride=2, padding=1) for c in (D, WIDTH))
        self.proj = nn.Linear(WIDTH, D_LLM)

    def forward(self, x):
        x = x.T[None]
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.proj(x[0].T)


class QBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_norm, self.cross_norm, self.ffn_norm = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.self_attn, self.cross_attn = Attention(WIDTH, WIDTH), Attention(WIDTH, D)
        self.fc1, self.fc2 = nn.Linear(WIDTH, FFN), nn.Linear(FFN, WIDTH)

    def forward(self, x, memory):
        h = self.self_norm(x)
        x = x + self.self_attn(h, h)
        x = x + self.cross_attn(self.cross_norm(x), memory)
        return x + self.fc2(F.relu(self.fc1(self.ffn_norm(x))))


class Qformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(QUERIES, WIDTH))
        self.layers = nn.ModuleList(QBlock() for _ in range(LAYERS))
        self.norm, self.proj = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, D_LLM)

    def forward(self, x):
        windows = []
        for memory in x.split(WINDOW):
            h = self.queries
            for block in self.layers:
                h = block(h, memory)
            windows.append(self.proj(self.norm(h)))
        return torch.cat(windows)


def conv_weight(name, t):
    """[c_out, c_in, k] as this project holds it: [c_out, k * c_in], tap-major."""
    return t.permute(0, 2, 1).flatten(1) if name.startswith("convs.") and t.dim() == 3 else t


def connectors():
    lens = [7, 1, 12]
    kinds = {"transformer": Transformer, "linear": TwoLinear, "conv": Conv, "qformer": Qformer}
    for kind, make in kinds.items():
        torch.manual_seed(len(kind))
        net = make().double()
        randomise(net)
        xs = [torch.randn(n, D).float().double().requires_grad_() for n in lens]
        ys = [net(x) for x in xs]
        probe = [torch.randn(y.shape).float().double() for y in ys]
        sum((y * p).sum() for y, p in zip(ys, probe)).backward()
        tensors = {"input": torch.cat(xs), "output": torch.cat(ys), "probe": torch.cat(probe)}
        tensors["input_grad"] = torch.cat([x.grad for x in xs])
        tensors["lens"] = torch.tensor(lens).double()
        tensors["output_lens"] = torch.tensor([len(y) for y in ys]).double()
        for name, p in net.named_parameters():
            tensors[f"connector.{name}"] = conv_weight(name, p)
            tensors[f"grad.connector.{name}"] = conv_weight(name, p.grad)
        save_file(f32(tensors), OUT / f"connector-{kind}.safetensors")


# ---- decoders ---------------------------------------------------------------------------------------------------


class Baichuan2(nn.Module):
    """LLaMA with one packed projection and an output head whose rows are L2-normalised."""

    def __init__(self, config):
        super().__init__()
        self.inner = transformers.LlamaForCausalLM(config)

    def forward(self, inputs_embeds):
        hidden = self.inner.model(inputs_embeds=inputs_embeds).last_hidden_state
        return hidden @ F.normalize(self.inner.lm_head.weight).T

    def state(self):
        state = dict(self.inner.state_dict())
        for i in range(self.inner.config.num_hidden_layers):
            parts = [state.pop(f"model.layers.{i}.self_attn.{n}_proj.weight") for n in "qkv"]
            state[f"model.layers.{i}.self_attn.W_pack.weight"] = torch.cat(parts)
        return state

    def embed(self, ids):
        return self.inner.model.embed_tokens(ids)


class Plain(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs_embeds):
        return self.inner(inputs_embeds=inputs_embeds).logits

    def state(self):
        return dict(self.inner.state_dict())

    def embed(self, ids):
        return self.inner.model.embed_tokens(ids)


SIZES = dict(hidden_size=D_LLM, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, vocab_size=VOCAB,
             max_position_embeddings=256, rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=2, attn_implementation="eager")


def decoder(kind):
    if kind == "baichuan":
        config = transformers.LlamaConfig(**SIZES, num_key_value_heads=4, tie_word_embeddings=False)
        net = Baichuan2(config).double()
        extra = {"model_type": "baichuan", "architectures": ["BaichuanForCausalLM"], "z_loss_weight": 0}
    elif kind == "llama":
        scaling = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 64}
        config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=False, rope_parameters=scaling)
        net, extra = Plain(transformers.LlamaForCausalLM(config)).double(), {}
    elif kind == "qwen2":
        config = transformers.Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=True)
        net, extra = Plain(transformers.Qwen2ForCausalLM(config)).double(), {}
    else:
        config = transformers.Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True)
        net, extra = Plain(transformers.Qwen3ForCausalLM(config)).double(), {}
    randomise(net)
    net.eval()
    keep = ["model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters",
            "tie_word_embeddings", "attention_bias", "use_sliding_window", "hidden_act", "bos_token_id", "eos_token_id"]
    full = {**config.to_dict(), **extra}
    written = {k: full[k] for k in keep + list(extra) if full.get(k) is not None}
    return net, written


def write_decoder(kind, net, config):
    directory = OUT / f"decoder-{kind}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    state = f32(net.state())
    if config.get("tie_word_embeddings"):
        state.pop("lm_head.weight", None)
    if kind == "qwen2":  # sharded safetensors
        names = sorted(state)
        shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for file, part in shards.items():
            save_file({n: state[n] for n in part}, directory / file, metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": {n: f for f, part in shards.items() for n in part}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    elif kind == "llama":  # sharded pickles
        names = sorted(state)
        shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
        for file, part in shards.items():
            torch.save({n: state[n] for n in part}, directory / file)
        index = {"metadata": {}, "weight_map": {n: f for f, part in shards.items() for n in part}}
        (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")
    else:
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})


def decoders():
    lens = [5, 1, 17]
    for kind in ("baichuan", "llama", "qwen2", "qwen3"):
        torch.manual_seed(100 + len(kind))
        net, config = decoder(kind)
        write_decoder(kind, net, config)
        ids = [torch.randint(3, VOCAB, (n,)) for n in lens]
        xs = [net.embed(i).detach().requires_grad_() for i in ids]
        logits = [net(x[None])[0] for x in xs]
        loss = sum(F.cross_entropy(l[:-1], i[1:], reduction="sum") for l, i in zip(logits, ids) if len(i) > 1)
        loss.backward()
        tensors = {"ids": torch.cat(ids).double(), "lens": torch.tensor(lens).double(), "logits": torch.cat(logits),
                   "loss": loss.reshape(1), "input_grad": torch.cat([torch.zeros_like(x) if x.grad is None else x.grad for x in xs])}
        with torch.no_grad():  # greedy continuation of the last one
            out = ids[2].tolist()
            for _ in range(12):
                out.append(int(net(net.embed(torch.tensor(out))[None])[0, -1].argmax()))
        tensors["greedy"] = torch.tensor(out[len(ids[2]):]).double()
        save_file(f32(tensors), OUT / f"decoder-{kind}.safetensors")


# ---- whole steps ------------------------------------------------------------------------------------------------


def hubert():
    config = transformers.HubertConfig(
        hidden_size=D, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, conv_dim=[16] * 7, conv_bias=False,
        feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        hidden_dropout=0.0, activation_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0,
        mask_time_prob=0.0, apply_spec_augment=False, attn_implementation="eager")
    net = transformers.HubertModel(config).double()
    randomise(net)
    return net.train(), config


def our_name(name):
    name = name.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v")
    return f"encoder.{name}"


def our_layout(name, t):
    return t.permute(0, 2, 1).flatten(1) if ".conv_layers." in name and t.dim() == 3 else t


def encode(net, wave):
    """The L layer outputs, the last one after the encoder's final LayerNorm."""
    x = (wave - wave.mean()) / torch.sqrt(wave.var(unbiased=False) + 1e-7)
    out = net(x[None], output_hidden_states=True)
    return [h[0] for h in out.hidden_states[1:-1]] + [out.last_hidden_state[0]]


def step(stage, lr=0.5, alpha=0.1):
    torch.manual_seed(7 + stage)
    encoder, encoder_config = hubert()
    llm, llm_config = decoder("baichuan")
    connector = Transformer().double()
    randomise(connector)
    speech_weights = (0.3 * torch.randn(2)).float().double().requires_grad_()
    emotion_weights = (0.3 * torch.randn(2)).float().double().requires_grad_()
    dense, token, classifier = nn.Linear(D, D).double(), nn.Linear(D, D_LLM).double(), nn.Linear(D, 5).double()
    for module in (dense, token, classifier):
        randomise(module)
    write_encoder(stage, encoder, encoder_config)
    write_decoder(f"stage{stage}", llm, llm_config)
    waves = [torch.randint(-8000, 8000, (n,)).double() for n in (4000, 1700, 6111)]
    targets = [torch.randint(3, VOCAB, (n,)) for n in (4, 1, 6)]
    labels, prompt = torch.tensor([3, 0, 4]), torch.tensor([9, 8, 7])
    bos, eos = torch.tensor([1]), torch.tensor([2])
    decoder_loss, emotion_loss, count = 0.0, 0.0, 0
    for wave, target, label in zip(waves, targets, labels):
        layers = encode(encoder, wave / 32768)
        mix = lambda w: sum(s * h for s, h in zip(w.softmax(0), layers))
        parts = [llm.embed(bos)]
        if stage == 2:
            h = F.gelu(dense(mix(emotion_weights).mean(0)))
            parts.append(token(h)[None])
            emotion_loss = emotion_loss + F.cross_entropy(classifier(h), label, reduction="sum")
        parts += [connector(mix(speech_weights)), llm.embed(prompt), llm.embed(target)]
        y = torch.cat([target, eos])
        logits = llm(torch.cat(parts)[None])[0, -len(y):]
        decoder_loss, count = decoder_loss + F.cross_entropy(logits, y, reduction="sum"), count + len(y)
    a = alpha if stage == 2 else 0.0
    loss = (1 - a) * decoder_loss / count + a * emotion_loss / len(waves)
    loss.backward()
    trained = {f"connector.{n}": p for n, p in connector.named_parameters()}
    if stage == 1:
        trained |= {our_name(n): p for n, p in encoder.named_parameters() if p.grad is not None}
        trained["speech_layer_weights"] = speech_weights
    else:
        trained["emotion_layer_weights"] = emotion_weights
        for name, module in (("dense", dense), ("token", token), ("classifier", classifier)):
            trained |= {f"emotion.{name}.{n}": p for n, p in module.named_parameters()}
    initial = {f"connector.{n}": p for n, p in connector.named_parameters()}
    initial["speech_layer_weights"] = speech_weights
    if stage == 2:
        initial |= {k: v for k, v in trained.items() if k.startswith("emotion")}
    save_file(f32(initial), OUT / f"stage{stage}-init.safetensors")
    tensors = {"wave": torch.cat(waves), "wave_lens": torch.tensor([len(w) for w in waves]).double(),
               "targets": torch.cat(targets).double(), "target_lens": torch.tensor([len(t) for t in targets]).double(),
               "labels": labels.double(), "prompt": prompt.double(), "loss": loss.reshape(1),
               "decoder_loss": decoder_loss.reshape(1) / count, "lr": torch.tensor([lr])}
    for name, p in trained.items():
        tensors[f"change.{name}"] = our_layout(name, -lr * p.grad)
    save_file(f32(tensors), OUT / f"stage{stage}.safetensors")


def write_encoder(stage, net, config):
    directory = OUT / f"encoder-stage{stage}"
    directory.mkdir(parents=True, exist_ok=True)
    state = {n.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v"): t
             for n, t in net.state_dict().items()}
    save_file(f32(state), directory / "model.safetensors", metadata={"format": "pt"})
    keep = ["model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_dim", "conv_kernel",
            "conv_stride", "conv_bias", "feat_extract_norm", "feat_extract_activation", "feat_proj_layer_norm",
            "do_stable_layer_norm", "num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "hidden_act", "layer_norm_eps",
            "hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "layerdrop", "mask_time_prob",
            "mask_time_length", "apply_spec_augment"]
    full = config.to_dict()
    written = {k: (list(full[k]) if isinstance(full[k], tuple) else full[k]) for k in keep if k in full}
    (directory / "config.json").write_text(json.dumps(written, indent=1) + "\n")


OUT.mkdir(parents=True, exist_ok=True)
connectors()
decoders()
step(1)
step(2)
