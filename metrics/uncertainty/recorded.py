"""Which layers and steps a metric looks at, of those recorded."""

import re

from torch import Tensor


def at_layer(values: Tensor, layer: str) -> Tensor:
    """The layers that an option names, of the recorded ones along the first axis.

    Args:
        values: layers first.
        layer: ``all``; an index from 0, or negative from the end; or, with a decimal point, a depth d in [0, 1]: entry
            floor(d m) of m recorded layers, at most the last, so that ``0.5`` is the middle. None of none.

    Raises:
        ValueError: none of these, or an index outside what is recorded.
    """
    count = len(values)
    if layer == "all" or count == 0:
        return values
    if re.fullmatch(r"0\.\d+|1\.0+", layer):
        index = min(int(float(layer) * count), count - 1)
    elif re.fullmatch(r"-?\d+", layer):
        index = int(layer)
    else:
        raise ValueError(f"layer='{layer}' is neither 'all', an index such as -1, nor a depth such as 0.5")
    if not -count <= index < count:
        raise ValueError(f"layer={layer} is outside the {count} layers recorded; give 0..{count - 1} or -{count}..-1")
    return values[index % count].unsqueeze(0)


def middle(values: Tensor) -> Tensor:
    """The middle third of m recorded layers as RAUQ counts it: entries floor(m/3) to ceil(2m/3), at most the last."""
    count = len(values)
    return values[count // 3 : -(-2 * count // 3) + 1]


def own(values: Tensor) -> Tensor:
    """The answer's own tokens along the last axis, one of steps: all but the first.

    A last token that the model could not read, NaN in every layer, is left out.
    """
    return read(values[..., 1:])


def read(values: Tensor) -> Tensor:
    """All of the last axis but an end that was not read, NaN in every layer."""
    unread = values.shape[-1] > 0 and bool(values[..., -1].isnan().all())
    return values[..., : values.shape[-1] - unread]


def after_first(values: Tensor) -> Tensor:
    """All layers but a first one that has none before it: layer 0, NaN as a whole."""
    return values[1:] if bool(values[:1].isnan().all()) else values
