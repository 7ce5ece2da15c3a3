"""Loads an exported encoder with transformers and compares it with golden tensors.

    python3 tests/peers/check_export.py EXPORT_DIR GOLDEN_SAFETENSORS

Prints the relative L2 error of the last hidden state; exits 1 if keys are missing or left over, or the error is above 1e-5.
"""

import sys

import torch
from safetensors.torch import load_file
from transformers import HubertModel, Wav2Vec2FeatureExtractor


def main(directory, golden_file):
    model, info = HubertModel.from_pretrained(directory, output_loading_info=True)
    problems = {k: v for k, v in info.items() if v and k != "error_msgs"}
    if problems:
        sys.exit(f"{directory}: {problems}")
    Wav2Vec2FeatureExtractor.from_pretrained(directory)
    golden = load_file(golden_file)
    model = model.double().eval()
    last = max(int(name.split(".")[2]) for name in golden if name.startswith("hidden."))
    worst, utterance = 0.0, 0
    while f"wave.{utterance}" in golden:
        with torch.no_grad():
            got = model(golden[f"wave.{utterance}"].double()[None]).last_hidden_state[0]
        expected = golden[f"hidden.{utterance}.{last}"].double()
        worst = max(worst, ((got - expected).norm() / expected.norm()).item())
        utterance += 1
    print(f"{utterance} utterances, relative L2 error {worst:.2e}")
    if not (utterance > 0 and worst <= 1e-5):
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
