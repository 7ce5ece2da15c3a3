#!/usr/bin/env python3
"""Makes the SentencePiece golden files: python3 tests/golden/tokenizer/make.py (needs sentencepiece and protobuf).

Three BPE models are trained on generated text, 10,000 other lines are encoded and decoded with Python's sentencepiece, and
expected.json keeps the ids of the first 200 lines and one digest per 100 lines. trainer/tests/sentencepiece.rs generates the
same lines from atoms.txt and the same random numbers.

plain.model   as Baichuan2 ships it: identity normaliser, no dummy prefix, byte fallback, user-defined symbols
dummy.model   LLaMA's settings: identity normaliser, dummy prefix, byte fallback
rules.model   everything else: normalisation rules, extra white space removed, no byte fallback, tied scores, unused pieces
"""
import hashlib
import io
import json
import pathlib
import struct

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb

HERE = pathlib.Path(__file__).parent
LINES, FULL, BLOCK = 10_000, 200, 100
# Random characters besides the atoms: ideographs, their extension B, Hangul, Cyrillic, emoji, symbols, private use, Latin-1, Thai.
RANGES = [(0x4E00, 0x9FA5), (0x20000, 0x2A6D6), (0xAC00, 0xD7A3), (0x400, 0x4FF), (0x1F300, 0x1FAFF), (0x2000, 0x27BF),
          (0xE000, 0xE0FF), (0xA0, 0x17F), (0xE01, 0xE3A)]
# From code points to code points, for rules.model; the longest source wins, an empty target deletes.
RULES = """FF01\t21|FF0C\t2C|FF1F\t3F|FF1A\t3A|3000\t20|A0\t20|9\t20|2026\t2E 2E 2E|FB01\t66 69|AD\t|200B\t|65 301\tE9|65 E8\t78 20 20 79"""


class Random:
    """splitmix64."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return (z ^ (z >> 31)) % n


def line(random, atoms, rare=3):
    text = ""
    for _ in range(1 + random.below(24)):
        if random.below(16) >= rare:
            # The smaller of two draws: early atoms are frequent, as words are.
            text += atoms[min(random.below(len(atoms)), random.below(len(atoms)))]
        else:
            low, high = RANGES[random.below(len(RANGES))]
            text += chr(low + random.below(high - low))
    return text


def train(corpus, **settings):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=model, model_type="bpe", vocab_size=3000, character_coverage=0.995,
        num_threads=1, minloglevel=2, pad_id=-1, **settings)
    return pb.ModelProto.FromString(model.getvalue())


def awkward(model):
    """Equal scores (the leftmost pair wins) and unused pieces (taken apart again)."""
    for index, piece in enumerate(model.pieces):
        if piece.type == pb.ModelProto.SentencePiece.NORMAL and len(piece.piece) > 1:
            piece.score = -float(int(-piece.score) // 400)
            if index % 7 == 0:
                piece.type = pb.ModelProto.SentencePiece.UNUSED
    return model


def main():
    atoms = [json.loads(row) for row in (HERE / "atoms.txt").read_text(encoding="utf-8").splitlines()]
    random = Random(1)
    corpus = [text for text in (line(random, atoms, rare=0).replace("\n", " ") for _ in range(20_000)) if text.strip()]
    reserved = [f"<reserved_{i}>" for i in range(100, 110)]
    rules = HERE / "rules.tsv"
    rules.write_text(RULES.replace("|", "\n") + "\n")
    same = dict(normalization_rule_name="identity", byte_fallback=True, remove_extra_whitespaces=False)
    models = {
        "plain": train(corpus, add_dummy_prefix=False, user_defined_symbols=reserved + ["👍🏽", " <b> "], **same),
        "dummy": train(corpus, add_dummy_prefix=True, allow_whitespace_only_pieces=True, **same),
        "rules": awkward(train(corpus, normalization_rule_tsv=str(rules), user_defined_symbols=["…！", "<b>"])),
    }
    rules.unlink()
    random = Random(2)
    lines = [line(random, atoms) for _ in range(LINES)]
    expected = {}
    for name, model in models.items():
        (HERE / f"{name}.model").write_bytes(model.SerializeToString())
        processor = spm.SentencePieceProcessor(model_proto=model.SerializeToString())
        ids = [processor.encode(text) for text in lines]
        texts = [processor.decode(row) for row in ids]
        digests = []
        for start in range(0, LINES, BLOCK):
            digest = hashlib.sha256()
            for row, text in zip(ids[start:start + BLOCK], texts[start:start + BLOCK]):
                digest.update(struct.pack(f"<I{len(row)}I", len(row), *row) + text.encode())
            digests.append(digest.hexdigest()[:16])
        expected[name] = {"ids": ids[:FULL], "digests": digests}
    (HERE / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
