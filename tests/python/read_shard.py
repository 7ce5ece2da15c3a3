# Reads a feature shard (docs/shards.md): one line of JSON per utterance.
import json, sys, zlib
from safetensors import safe_open

with safe_open(sys.argv[1], framework="numpy") as f:
    t = {name: f.get_tensor(name) for name in f.keys()}
    n = json.loads(f.metadata()["echat_shard"])["utterances"]
part = lambda name, i: t[name][t[name + "_offsets"][i]:t[name + "_offsets"][i + 1]] if name in t else b""
for i in range(n):
    audio, emotion = part("audio", i), int(t["emotion"][i]) if "emotion" in t else 255
    texts = {name: bytes(part(name, i)) for name in ("id", "text", "response", "speaker", "context")}
    assert zlib.crc32(audio.tobytes() + bytes([emotion]) + b"".join(x + b"\0" for x in texts.values())) == t["crc32"][i]
    print(json.dumps({**{k: x.decode() for k, x in texts.items()}, "emotion": emotion, "audio": audio.tolist()}))
