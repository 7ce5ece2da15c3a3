"""Writes tests/golden/hubert: tiny random HuBERTs, and what PyTorch and transformers make of them.

    python3 tests/golden/make_hubert.py

Needs torch, transformers, safetensors. Every parameter is random (biases and norms too), so that none can be ignored
unnoticed. Each model runs in float64 on each utterance alone; stored are the input of the first layer, every layer's
output (the last after the final norm in the stable layout) and the gradients of a random linear functional of all of
them, summed over the utterances. `forms/` holds the same weights in every file format that is read.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import HubertConfig, HubertModel

HERE = Path(__file__).parent / "hubert"
LENGTHS = [1203, 640, 95, 2000]
MODELS = {
    "group": dict(feat_extract_norm="group", do_stable_layer_norm=False, conv_bias=False, feat_proj_layer_norm=True),
    "layer": dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=False, feat_proj_layer_norm=True),
    "layer_bias": dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True, feat_proj_layer_norm=True),
    "group_bias": dict(feat_extract_norm="group", do_stable_layer_norm=False, conv_bias=True, feat_proj_layer_norm=False),
}
SIZES = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=48,
    conv_dim=[16] * 4,
    conv_kernel=[10, 3, 3, 2],
    conv_stride=[5, 2, 2, 2],
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    attn_implementation="eager",
)


def build(options):
    model = HubertModel(HubertConfig(**SIZES, **options)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "original0" in name:
                p.copy_(0.5 + torch.rand_like(p))
            elif "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.3 * torch.randn_like(p))
            elif p.dim() == 1:
                p.copy_(0.3 * torch.randn_like(p))
            else:
                # A gain in the convolutions, or GELU and biases leave frames that hardly differ, and nothing to attend to.
                gain = 2.5 if name.startswith("feature_extractor") else 1.0
                p.copy_(torch.randn_like(p) * gain * (p[0].numel() ** -0.5))
    return model


def hidden_states(model, wave):
    """The first layer's input and every layer's output: hooks, since versions differ in what `hidden_states` holds."""
    seen = []
    layers = model.encoder.layers
    hooks = [layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))]
    hooks += [layer.register_forward_hook(lambda _, __, y: seen.append(y[0] if isinstance(y, tuple) else y)) for layer in layers]
    last = model(wave[None]).last_hidden_state
    for hook in hooks:
        hook.remove()
    return [h[0] for h in seen[:-1] + [last]]


def golden(model):
    model = model.double()
    tensors, total = {}, 0
    for u, length in enumerate(LENGTHS):
        wave = torch.randn(length, dtype=torch.float32)
        tensors[f"wave.{u}"] = wave
        for layer, h in enumerate(hidden_states(model, wave.double())):
            seed = torch.randn(h.shape, dtype=torch.float32)
            tensors[f"hidden.{u}.{layer}"] = h.detach().float()
            tensors[f"seed.{u}.{layer}"] = seed
            total = total + (seed.double() * h).sum()
    total.backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            name = name.replace("parametrizations.weight.original0", "weight_g")
            name = name.replace("parametrizations.weight.original1", "weight_v")
            tensors[f"grad.{name}"] = p.grad.float()
    model.float()
    return tensors


def to_fairseq(key):
    for hf, fs in [
        ("feature_projection.projection.", "post_extract_proj."),
        ("feature_projection.layer_norm.", "layer_norm."),
        ("masked_spec_embed", "mask_emb"),
        ("encoder.pos_conv_embed.conv.", "encoder.pos_conv.0."),
        (".attention.", ".self_attn."),
        ("feed_forward.intermediate_dense.", "fc1."),
        ("feed_forward.output_dense.", "fc2."),
    ]:
        key = key.replace(hf, fs)
    if key.startswith("encoder.layers."):
        head, tail = key.split(".layer_norm.") if ".layer_norm." in key else (key, None)
        return f"{head}.self_attn_layer_norm.{tail}" if tail else key
    if key.startswith("feature_extractor."):
        return key.replace(".conv.", ".0.").replace(".layer_norm.", ".2.1.")
    return key


def split(state):
    keys = sorted(state)
    return keys[: len(keys) // 2], keys[len(keys) // 2 :]


def forms(source):
    """The weights of `source` as other tools leave them."""
    state = load_file(source / "model.safetensors")
    new = {k: v.clone() for k, v in state.items()}
    old = {k.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v"): v for k, v in new.items()}
    new = {k.replace("weight_g", "parametrizations.weight.original0").replace("weight_v", "parametrizations.weight.original1"): v for k, v in old.items()}

    def folder(name):
        path = HERE / "forms" / name
        path.mkdir(parents=True)
        shutil.copy(source / "config.json", path / "config.json")
        return path

    def index(path, pattern, save):
        weight_map = {}
        for i, keys in enumerate(split(new)):
            file = pattern.format(i + 1)
            save({k: new[k] for k in keys}, path / file)
            weight_map |= dict.fromkeys(keys, file)
        name = "model.safetensors.index.json" if pattern.startswith("model") else "pytorch_model.bin.index.json"
        (path / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1) + "\n")

    save_file(old, folder("weight_g") / "model.safetensors", metadata={"format": "pt"})
    save_file(new, folder("parametrizations") / "model.safetensors", metadata={"format": "pt"})
    torch.save(old, folder("bin") / "pytorch_model.bin")
    index(folder("bin_sharded"), "pytorch_model-{:05d}-of-00002.bin", torch.save)
    index(folder("safetensors_sharded"), "model-{:05d}-of-00002.safetensors", save_file)
    fairseq = {to_fairseq(k): v for k, v in old.items()}
    fairseq |= {"label_embs_concat": torch.zeros(4, 2), "final_proj.weight": torch.zeros(2, 32), "final_proj.bias": torch.zeros(2)}
    args = argparse.Namespace(arch="hubert", layer_norm_first=True, conv_feature_layers="[(16, 10, 5)]")
    checkpoint = {"args": args, "cfg": {"_name": None, "lr": [0.001]}, "model": fairseq, "optimizer_history": [{"num_updates": 3}]}
    torch.save(checkpoint, folder("fairseq") / "tiny-hubert-fairseq-ckpt.pt")


def main():
    torch.manual_seed(20250101)
    torch.set_num_threads(1)
    shutil.rmtree(HERE, ignore_errors=True)
    for name, options in MODELS.items():
        model = build(options)
        model.save_pretrained(HERE / name)
        save_file(golden(model), HERE / name / "golden.safetensors")
    forms(HERE / "layer")
    (HERE / "made_with.json").write_text(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}) + "\n")


if __name__ == "__main__":
    main()
