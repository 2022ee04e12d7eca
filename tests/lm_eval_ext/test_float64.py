"""A whole GPT-2 in float64 NumPy, and every signal by loops over it: what is recorded is that, to single precision."""

import math

import numpy as np
import pytest
import torch
from families import tiny

from metrics.core import signals

HEADS = 4


def norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gpt2(weights, ids):
    """Logits (T, V), states (L+1, T, d) and attention (L, H, T, T) of one sequence."""
    w = {name: value.double().numpy() for name, value in weights.items()}
    x = w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
    states, maps = [x], []
    for layer in range(3):
        own = {name.split(".", 2)[2]: v for name, v in w.items() if name.startswith(f"h.{layer}.")}
        y = norm(x, own["ln_1.weight"], own["ln_1.bias"]) @ own["attn.c_attn.weight"] + own["attn.c_attn.bias"]
        q, k, v = (part.reshape(len(ids), HEADS, -1) for part in np.split(y, 3, -1))
        attention = np.zeros((HEADS, len(ids), len(ids)))
        mixed = np.zeros_like(q)
        for head in range(HEADS):
            for t in range(len(ids)):
                score = np.array([q[t, head] @ k[j, head] / math.sqrt(q.shape[-1]) for j in range(t + 1)])
                attention[head, t, : t + 1] = np.exp(score - score.max()) / np.exp(score - score.max()).sum()
                mixed[t, head] = sum(attention[head, t, j] * v[j, head] for j in range(t + 1))
        x = x + mixed.reshape(len(ids), -1) @ own["attn.c_proj.weight"] + own["attn.c_proj.bias"]
        y = norm(x, own["ln_2.weight"], own["ln_2.bias"])
        y = gelu(y @ own["mlp.c_fc.weight"] + own["mlp.c_fc.bias"])
        x = x + y @ own["mlp.c_proj.weight"] + own["mlp.c_proj.bias"]
        states.append(x)
        maps.append(attention)
    return norm(x, w["ln_f.weight"], w["ln_f.bias"]) @ w["wte.weight"].T, np.stack(states), np.stack(maps)


def by_loops(logits, states, maps, first, tokens):
    """Every signal from rows `first` on, in plain Python."""
    made = {name: [] for name in ("logprob", "entropy", "varentropy", "rank", "mean_log_probability", "top_logprobs")}
    for t, token in enumerate(tokens):
        row = [float(v) for v in logits[first + t]]
        total = max(row) + math.log(math.fsum(math.exp(v - max(row)) for v in row))
        lp = [v - total for v in row]
        entropy = -math.fsum(math.exp(v) * v for v in lp)
        made["logprob"].append(lp[token])
        made["entropy"].append(entropy)
        made["varentropy"].append(math.fsum(math.exp(v) * (v + entropy) ** 2 for v in lp))
        made["rank"].append(sum(v > lp[token] for v in lp))
        made["mean_log_probability"].append(math.fsum(lp) / len(lp))
        made["top_logprobs"].append(sorted(lp, reverse=True)[:20])
    rows = maps[:, :, first:]
    made["logits"] = logits[first : first + len(tokens)]
    made["hidden"] = states[:, first:]
    made["hidden_norm"] = [[math.sqrt(math.fsum(v * v for v in s)) for s in layer[first:]] for layer in states]
    made["hidden_prompt"] = [layer[first] for layer in states]
    made["hidden_last"] = [layer[-1] for layer in states]
    several = len(states[0]) - first > 2
    made["hidden_second_last"] = [layer[-2] if several else np.full_like(layer[-1], math.nan) for layer in states]
    made["hidden_mean"] = [np.mean(layer[first + 1 :], 0) for layer in states]
    made["attention"] = rows
    made["attention_diagonal"] = [[[h[t][first + t] for t in range(len(h))] for h in layer] for layer in rows]
    made["attention_row_entropy"] = [
        [[-math.fsum(a * math.log(a) for a in row if a > 0) for row in head] for head in layer] for layer in rows
    ]
    made["attention_sink"] = np.zeros((rows.shape[0], rows.shape[2]))
    return made | states_by_loops(states, first) | maps_by_loops(maps, first)


def states_by_loops(states, first):
    """What is kept of the residual stream beside norms and means."""
    nothing = np.full_like(states[0, first:], math.nan)
    before = [nothing, *(layer[first:] for layer in states[:-1])]
    steps = [list(zip(b, layer[first:])) for b, layer in zip(before, states)]
    made = {
        "hidden_change": [[math.dist(a, b) for b, a in layer] for layer in steps],
        "hidden_cosine": [[a @ b / math.sqrt((a @ a) * (b @ b)) for b, a in layer] for layer in steps],
        "hidden_mean_official": [(h[0] + h[first + 1 : -1].sum(0)) / (len(h) - first - 1) for h in states],
    }
    for layer in states:
        own = layer[first + 1 :]
        centred = np.array([h - h.mean() for h in own])
        spread = np.linalg.eigvalsh(centred @ centred.T) + 1e-3
        share = np.linalg.eigvalsh(own @ own.T).clip(1e-300) / (own**2).sum()
        renyi = -math.log((share**2).sum()) / (1 + math.log(len(own)))
        made.setdefault("hidden_log_determinant", []).append(np.log(spread).mean())
        made.setdefault("hidden_matrix_entropy", []).append(-(share * np.log(share)).sum())
        made.setdefault("hidden_renyi_entropy", []).append(renyi)
    return made


def maps_by_loops(maps, first):
    """What is kept of the attention maps beside diagonal and entropy: steps are rows from `first` on."""
    layers, heads, length, _ = maps.shape
    steps, context = range(first, length), first + 1
    made = {
        "attention_previous": np.full((layers, heads, len(steps)), math.nan),
        "lookback_ratio": np.ones((layers, heads, len(steps))),
        "laplacian_eigenvalues": np.full((layers, heads, 10), math.nan),
        "attention_first": maps[:, :, first:, 0].mean(1),
        "attention_received": np.zeros((layers, length)),
        "attention_log_diagonal": np.zeros((layers, length)),
    }
    for layer, head in np.ndindex(layers, heads):
        a = maps[layer, head]
        for step, q in enumerate(steps):
            if q > 0:
                made["attention_previous"][layer, head, step] = a[q, q - 1]
            if step > 0:
                near, far = a[q, context : q + 1].mean(), a[q, :context].mean()
                made["lookback_ratio"][layer, head, step] = far / (far + near)
        received = np.array([a[i:, i].mean() for i in range(length)])
        made["attention_received"][layer] += received / heads
        made["attention_log_diagonal"][layer] += np.log(a.diagonal()) / heads
        values = np.sort(np.linalg.eigvals(np.diag(received) - a).real)[::-1][:10]
        made["laplacian_eigenvalues"][layer, head, : len(values)] = values
    return made


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
def test_what_is_recorded_is_float64_arithmetic(kind, make_lm, reopened, instance, words_of):
    prompts = [words_of(n, 20 + n) for n in (1, 7, 4)]  # one token, and two paddings
    options = {"until": ["w7"], "max_gen_toks": 5, "do_sample": False}
    arguments = [(p, options) for p in prompts]
    if kind == "loglikelihood":
        arguments = [(p, " " + words_of(n, n)) for p, n in zip(prompts, (1, 3, 2))]
    lm = make_lm("gpt2", signals="all", raw="logits+hidden+attention", batch_size=3)
    getattr(lm, kind)([instance(kind, a, i) for i, a in enumerate(arguments)], disable_tqdm=True)
    weights = tiny("gpt2").base_model.state_dict()
    compared = set()
    for record in reopened(lm).records((*lm._options.plan.keep, "tokens", "prompt_tokens")):
        tokens = record.signals["tokens"].tolist()
        ids = record.signals["prompt_tokens"].tolist() + tokens
        made = by_loops(*gpt2(weights, ids), record.prompt_count - 1, tokens)
        for name, value in made.items():
            found = record.signals[name]
            close = 1e-3 if found.dtype == torch.float16 else 2e-4
            np.testing.assert_allclose(found.double(), np.asarray(value), rtol=close, atol=2e-4, err_msg=name)
        compared |= set(made)
    dear = {n for n, s in signals().items() if s.cost in ("hidden", "attention") and s.kept and s.compute}
    assert compared >= dear | {"logits", "hidden", "attention", "logprob", "entropy"}
