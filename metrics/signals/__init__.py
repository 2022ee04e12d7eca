"""The catalogue of raw signals. Derived ones stand in the module named for what they are computed from."""

from metrics.core import raw

raw(
    "logits",
    axes=("token", "vocab"),
    unit="logit",
    cost="logits",
    summary="The model's raw output before the softmax, in the row that produced each token.",
)
raw(
    "hidden",
    axes=("layer", "step", "dim"),
    unit="1",
    cost="hidden",
    summary="Residual stream after each layer (0 = embedding output), without the final norm.",
)
raw(
    "hidden_before",
    axes=("layer", "step", "dim"),
    unit="1",
    cost="hidden",
    kept=False,
    summary="What each block read: the residual stream one layer before, recorded or not; NaN for layer 0.",
)
raw(
    "hidden_start",
    axes=("layer", "dim"),
    unit="1",
    cost="hidden",
    kept=False,
    summary="Residual stream after each layer at the text's very first position, where many models park a sink.",
)
raw(
    "lens_logits",
    axes=("layer", "token", "vocab"),
    unit="logit",
    cost="lens",
    kept=False,
    summary="Each layer's state through the final norm and the head, in the row that produced each token.",
)
raw(
    "lens_last_logits",
    axes=("token", "vocab"),
    unit="logit",
    cost="lens",
    kept=False,
    summary="The same of the last layer, which are the model's own logits; there whatever layers are recorded.",
)
raw(
    "attention",
    axes=("layer", "head", "step", "key"),
    unit="probability",
    cost="attention",
    summary="Attention weights of each block, after the softmax; layer k is block k, layer 0 has none.",
)
raw(
    "attention_columns",
    axes=("layer", "head", "key"),
    unit="1",
    cost="attention",
    kept=False,
    summary="Attention that each position receives: the sum of its column over all queries of prompt and continuation.",
)
raw(
    "attention_self",
    axes=("layer", "head", "key"),
    unit="probability",
    cost="attention",
    kept=False,
    summary="Attention that each position of prompt and continuation pays to itself.",
)
raw(
    "tokens",
    axes=("token",),
    unit="id",
    cost="free",
    dtype="int32",
    summary="Token ids of the continuation.",
)
raw("token_count", axes=(), unit="token", cost="free", dtype="int64", summary="Tokens of the scored span.")
raw(
    "prompt_count", axes=(), unit="token", cost="free", dtype="int64", summary="Tokens of the prompt, after truncation."
)
raw(
    "record_id",
    axes=(),
    unit="1",
    cost="free",
    dtype="int64",
    summary="A number drawn from the record's key by a hash: the same in every run.",
)
raw(
    "option_loglikelihood",
    axes=("option",),
    unit="nat",
    cost="free",
    summary="Log-likelihood of every answer option of a document, as the harness scored it.",
)
raw("option_tokens", axes=("option",), unit="token", cost="free", summary="Tokens of every answer option.")
raw("option_bytes", axes=("option",), unit="byte", cost="free", summary="UTF-8 bytes of every answer option.")
raw(
    "stated_confidence",
    axes=(),
    unit="probability",
    cost="free",
    summary="The confidence that the answer's text states in figures; NaN where it states none.",
)
