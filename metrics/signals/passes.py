"""What further passes bring: over other texts, and backward. Each signal takes a pass of its own, on request.

`docs/passes.md` says what is read, in which words, and what it costs.
"""

from metrics.core import raw

raw(
    "logprob_alone",
    axes=("token",),
    unit="nat",
    cost="passes",
    summary="Log-probability of each token of the continuation without the prompt, after the tokenizer's first token.",
)
raw(
    "true_logprob",
    axes=(),
    unit="nat",
    cost="passes",
    summary="Log-probability that the model, asked whether its answer is true, replies True; of the whole answer.",
)
raw(
    "false_logprob",
    axes=(),
    unit="nat",
    cost="passes",
    summary="Log-probability that the model, asked whether its answer is true, replies False; of the whole answer.",
)
raw(
    "true_logprob_polygraph",
    axes=(),
    unit="nat",
    cost="passes",
    summary="Log-probability of True in LM-Polygraph's words, where prompt and answer are quoted; of the whole answer.",
)
raw(
    "csl_weight",
    axes=("token",),
    unit="probability",
    cost="passes",
    summary="Attention to each token of the answer from the last token of a prompt that asks whether it is correct, "
    "mean over all heads of all blocks; NaN outside the answer.",
)
raw(
    "csl_head_weight",
    axes=("token",),
    unit="probability",
    cost="passes",
    summary="The same attention, of each head made to sum to one over the answer before the mean is taken.",
)
raw(
    "csl_next_weight",
    axes=("token",),
    unit="probability",
    cost="passes",
    summary="Attention to each token of the answer from its last one, mean over all heads of all blocks; "
    "NaN outside the answer.",
)
raw(
    "input_gradient",
    axes=("token",),
    unit="nat",
    cost="passes",
    summary="Input times gradient: |x_t . dF/dx_t| of each token's embedding x_t, F the log-likelihood of the "
    "continuation. 0 for the last token, which F does not depend on.",
)
raw(
    "lrp",
    axes=("token",),
    unit="logit",
    cost="passes",
    summary="AttnLRP: |relevance| of each token of the continuation for the sum of its tokens' logits; needs lxt.",
)
