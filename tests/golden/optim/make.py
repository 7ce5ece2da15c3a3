#!/usr/bin/env python3
"""Golden values of torch.optim.AdamW and SGD with groups, no decay on 1-D parameters, a schedule and clipping.

    python3 tests/golden/optim/make.py > tests/golden/optim/expected.json

Needs torch (made with torch 2.15). Computed in f64 from f32 parameters and gradients. Gradients are sums; each step divides by COUNT.
"""
import json

import torch

COUNT, STEPS, CLIP = 7.0, 12, 0.8
SHAPES = {"encoder.w": (3, 5), "encoder.b": (5,), "connector.w": (4, 6), "connector.norm": (6,), "connector.scale": ()}
LR = {"encoder": 2e-3, "connector": 1e-2}
FACTORS = [min(1.0, (s + 1) / 4) * (1.0 if s < 6 else 0.5) for s in range(STEPS)]


def draw(shape):
    return torch.randn(shape).float().double()


def flat(tensors):
    return {name: t.detach().float().flatten().tolist() for name, t in tensors.items()}


def case(make):
    params = {name: draw(shape).requires_grad_() for name, shape in SHAPES.items()}
    initial = flat(params)
    groups = []
    for name, p in params.items():
        peak = LR[name.split(".")[0]]
        groups.append({"params": [p], "lr": peak, "peak": peak, "no_decay": p.dim() <= 1})
    optimizer = make(groups)
    steps = []
    for factor in FACTORS:
        gradients = {name: 20 * draw(shape) for name, shape in SHAPES.items()}
        for name, p in params.items():
            p.grad = gradients[name] / COUNT
        norm = torch.nn.utils.clip_grad_norm_(params.values(), CLIP).item()
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
            if group["no_decay"]:
                group["weight_decay"] = 0.0
        optimizer.step()
        steps.append({"gradients": flat(gradients), "norm": norm, "parameters": flat(params)})
    return {"initial": initial, "steps": steps}


torch.manual_seed(20240612)
print(json.dumps({
    "count": COUNT,
    "clip": CLIP,
    "factors": FACTORS,
    "shapes": SHAPES,
    "adamw": case(lambda g: torch.optim.AdamW(g, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1)),
    "sgd": case(lambda g: torch.optim.SGD(g, momentum=0.9, weight_decay=0.1)),
    "sgd_plain": case(lambda g: torch.optim.SGD(g)),
}))
