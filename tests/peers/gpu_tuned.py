"""The variant `tuned` of gpu_step.py: the same model over packed sequences, compiled layer by layer."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from gpu_sizes import BOS, PROMPT, conv_lens, sinusoids
from packed_attention import Sequences, by_mask, choose


def drop(x, p):
    return F.dropout(x, p) if p > 0 else x


def convolve(wave, frontend, frames):
    """wave [samples], utterances beginning at whole frames: a row of frames of which `frames` lie within one utterance."""
    x = wave[None, None]
    for layer in frontend.conv_layers:
        x = layer.conv(x)
        x = layer.activation(layer.layer_norm(x.transpose(1, 2)).transpose(1, 2))
    return x[0].transpose(0, 1).index_select(0, frames)


def project(x, projection, masked, embedding):
    x = projection.projection(projection.layer_norm(x))
    return x if masked is None else torch.where(masked[:, None], embedding, x)


def embed(x, encoder, places, length, p):
    """Adds the positional convolution's output: utterances lie apart by as many zeros as it reaches."""
    conv = encoder.pos_conv_embed.conv
    apart = x.new_zeros(length, x.shape[1]).index_copy(0, places, x)
    y = F.conv1d(apart.transpose(0, 1)[None], conv.weight, conv.bias, padding=conv.padding, groups=conv.groups)
    return drop(x + encoder.pos_conv_embed.activation(y[0].transpose(0, 1).index_select(0, places)), p)


def encoder_layer(x, layer, seq, attend, p):
    """p: dropout of hidden states, of attention, inside the feed-forward."""
    a, f = layer.attention, layer.feed_forward
    h = layer.layer_norm(x)
    q, k, v = (linear(h).unflatten(-1, (a.num_heads, -1)) for linear in (a.q_proj, a.k_proj, a.v_proj))
    x = x + drop(a.out_proj(attend(q, k, v, seq, False, p[1]).flatten(1)), p[0])
    h = drop(f.intermediate_act_fn(f.intermediate_dense(layer.final_layer_norm(x))), p[2])
    return x + drop(f.output_dense(h), p[0])


def mix(layers, last_norm, weights, connector, stacked, positions, p):
    """The layers' softmax sum, stacked: row 0 of what is gathered is the zeros that fill an utterance's last stack."""
    layers = [*layers[:-1], last_norm(layers[-1])]
    x = sum(w * h for w, h in zip(weights.float().softmax(0).to(layers[0].dtype), layers))
    x = torch.cat([x.new_zeros(1, x.shape[1]), x]).index_select(0, stacked).view(-1, connector.k * x.shape[1])
    return drop(connector.stack_norm(connector.stack(x)) + positions, p)


def connector_layer(x, layer, seq, attend, p):
    h = layer.attn_norm(x)
    q, k, v = (linear(h).unflatten(-1, (layer.heads, -1)) for linear in (layer.q_proj, layer.k_proj, layer.v_proj))
    x = x + drop(layer.o_proj(attend(q, k, v, seq, False, 0.0).flatten(1)), p)
    return x + drop(layer.fc2(drop(F.relu(layer.fc1(layer.ffn_norm(x))), p)), p)


def assemble(x, connector, tokens, order):
    return torch.cat([connector.proj(connector.norm(x)), tokens]).index_select(0, order)


def rms(x, norm):
    return norm.weight * F.rms_norm(x.float(), (x.shape[1],), eps=norm.variance_epsilon).to(x.dtype)


def decoder_layer(x, norms, weights, cos, sin, heads, seq, attend):
    """weights: queries, keys and values joined; output; gate and up joined; down."""
    qkv, out, gate_up, down = weights
    q, k, v = F.linear(rms(x, norms[0]), qkv).unflatten(-1, (3, heads, -1)).unbind(1)

    def turn(y):
        a, b = y.chunk(2, -1)
        return y * cos + torch.cat([-b, a], -1) * sin

    x = x + F.linear(attend(turn(q), turn(k), v, seq, True, 0.0).flatten(1), out)
    gate, up = F.linear(rms(x, norms[1]), gate_up).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, down)


def loss_of(x, norm, head, rows, labels):
    logits = F.linear(rms(x.index_select(0, rows), norm), head)
    return F.cross_entropy(logits.float(), labels)


class Tuned:
    def __init__(self, model, speech, batch, device, dtype=torch.bfloat16, compiled=True):
        self.model, self.speech, self.batch, self.device, self.dtype = model, speech, batch, device, dtype
        self.way, self.attend = choose(device) if compiled else ("a dense mask", by_mask)
        functions = [convolve, project, embed, encoder_layer, mix, connector_layer, assemble, decoder_layer, loss_of]
        for f in functions:
            setattr(self, f.__name__, torch.compile(f, dynamic=False) if compiled else f)
        self.trained = model.trained()
        if compiled:
            self.masters = [p.detach().clone().float().requires_grad_() for p in self.trained]
            for p in self.trained:
                p.data = p.data.to(dtype)
            self.optimizer = torch.optim.AdamW(self.masters, lr=1e-4, betas=(0.9, 0.98), fused=True)
        self.join()
        self.lay_out()

    def join(self):
        """The frozen decoder's weights as its layers read them."""
        self.blocks = []
        for layer in self.model.llm.model.layers:
            a, m = layer.self_attn, layer.mlp
            qkv = torch.cat([f.weight.data for f in (a.q_proj, a.k_proj, a.v_proj)])
            gate_up = torch.cat([m.gate_proj.weight.data, m.up_proj.weight.data])
            norms = (layer.input_layernorm, layer.post_attention_layernorm)
            self.blocks.append((norms, (qkv, a.o_proj.weight.data, gate_up, m.down_proj.weight.data)))
            for f in (a.q_proj, a.k_proj, a.v_proj, m.gate_proj, m.up_proj):
                f.weight = None

    def lay_out(self):
        """Where everything lies: all of it from the lengths, on the device once."""
        config, samples = self.model.encoder.config, self.batch.samples
        here = lambda x: torch.as_tensor(x, device=self.device)
        lens = [conv_lens(config, n)[-1] for n in samples]
        hop = math.prod(config.conv_stride)
        begins = np.cumsum([0] + [-(-n // hop) for n in samples])
        self.wave = torch.zeros(begins[-1] * hop + hop, dtype=torch.float32)
        for begin, wave in zip(begins, self.speech.waves):
            self.wave[begin * hop : begin * hop + len(wave)] = wave
        if self.device.type == "cuda":
            self.wave = self.wave.pin_memory()
        self.frames = here(np.concatenate([b + np.arange(n) for b, n in zip(begins, lens)]))
        self.heard = Sequences(lens, self.device, self.attend)
        gap = config.num_conv_pos_embeddings
        starts = np.cumsum([0] + [n + gap for n in lens])
        self.places, self.apart = here(np.concatenate([s + np.arange(n) for s, n in zip(starts, lens)])), int(starts[-1])
        k = self.model.connector.k
        stacked, stacks, first = [], [-(-n // k) for n in lens], 1
        for n, s in zip(lens, stacks):
            stacked.append(np.concatenate([first + np.arange(n), np.zeros(s * k - n, dtype=np.int64)]))
            first += n
        self.stacked, self.spoken = here(np.concatenate(stacked)), Sequences(stacks, self.device, self.attend)
        positions = np.concatenate([np.arange(s) for s in stacks])
        self.positions = sinusoids(here(positions), self.model.connector.stack_norm.weight.shape[0]).to(self.dtype)
        self.lay_out_text(stacks)

    def lay_out_text(self, stacks):
        here = lambda x: torch.as_tensor(np.asarray(x), device=self.device)
        vocab = self.model.llm.config.vocab_size
        tokens, order, rows, labels, lens, spoken, total = [], [], [], [], [], 0, sum(stacks)
        for n, target in zip(stacks, self.speech.targets):
            ids = [BOS, *(100 % vocab + i for i in range(PROMPT)), *target[:-1].tolist()]
            at = [total + len(tokens) + i for i in range(len(ids))]
            start = len(order)
            order += [at[0], *range(spoken, spoken + n), *at[1:]]
            tokens, spoken = tokens + ids, spoken + n
            rows += [len(order) - len(target) + i for i in range(len(target))]
            labels += target.tolist()
            lens.append(len(order) - start)
        self.tokens, self.order, self.rows, self.labels = here(tokens), here(order), here(rows), here(labels)
        self.read = Sequences(lens, self.device, self.attend)
        with torch.no_grad():
            places = here(np.concatenate([np.arange(n) for n in lens]))[None]
            cos, sin = self.model.llm.model.rotary_emb(torch.empty(1, dtype=self.dtype, device=self.device), places)
        self.cos, self.sin = cos[0][:, None], sin[0][:, None]

    def masked(self, config):
        """Which frames are masked this step: drawn on the host, an utterance at a time."""
        length, masked, start = config.mask_time_length, np.zeros(self.heard.rows, dtype=bool), 0
        for n in self.heard.lens:
            count = max(int(config.mask_time_prob * n / length + np.random.rand()), config.mask_time_min_masks)
            count = min(count, n // length)
            for begin in np.random.choice(max(n - length + 1, 1), count, replace=False):
                masked[start + begin : start + begin + length] = True
            start += n
        return torch.from_numpy(masked).to(self.device)

    def differentiate(self):
        model, train = self.model, self.model.training
        encoder, connector, config = model.encoder, model.connector, model.encoder.config
        p = (config.hidden_dropout, config.attention_dropout, config.activation_dropout) if train else (0.0, 0.0, 0.0)
        q = connector.p if train else 0.0
        wave = self.wave.to(self.device, non_blocking=True).to(self.dtype)
        x = self.convolve(wave, encoder.feature_extractor, self.frames)
        x = self.project(x, encoder.feature_projection, self.masked(config) if train else None, encoder.masked_spec_embed)
        x = self.embed(x, encoder.encoder, self.places, self.apart, p[0])
        layers = []
        for layer in encoder.encoder.layers:
            x = self.encoder_layer(x, layer, self.heard, self.attend, p)
            layers.append(x)
        x = self.mix(layers, encoder.encoder.layer_norm, model.layer_weights, connector, self.stacked, self.positions, q)
        del layers
        for layer in connector.layers:
            x = self.connector_layer(x, layer, self.spoken, self.attend, q)
        llm = model.llm.model
        x = self.assemble(x, connector, llm.embed_tokens(self.tokens), self.order)
        heads = model.llm.config.num_attention_heads
        for norms, weights in self.blocks:
            x = self.decoder_layer(x, norms, weights, self.cos, self.sin, heads, self.read, self.attend)
        loss = self.loss_of(x, llm.norm, model.llm.lm_head.weight, self.rows, self.labels)
        loss.backward()
        return loss.detach()

    def step(self):
        loss = self.differentiate()
        # The mask's embedding has no gradient in a step that masks nothing.
        pairs = [(p, m) for p, m in zip(self.trained, self.masters) if p.grad is not None]
        for _, m in pairs:
            if m.grad is None:
                m.grad = torch.empty_like(m)
        grads, masters = [m.grad for _, m in pairs], [m for _, m in pairs]
        with torch.no_grad():
            torch._foreach_copy_(grads, [p.grad for p, _ in pairs])
            torch.nn.utils.clip_grad_norm_(masters, 1.0, foreach=True)
            self.optimizer.step()
            torch._foreach_copy_([p for p, _ in pairs], masters)
        for p in self.trained:
            p.grad = None
        return loss

    def told(self):
        return {"micro_batches": 1, "attention": self.way, "seconds_with_padding": self.wave.numel() / 16000}
