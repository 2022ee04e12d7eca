"""What lm-eval scores of a decoded row, in either order of its versions, in the plainest words."""


def scored(text, stops, think=None, stops_first=False):
    """As `postprocess_generated_text`: from 0.4.12 on the thought is cut first, before that the stop strings."""
    steps = [_without_thought, _without_rest]
    for step in reversed(steps) if stops_first else steps:
        text = step(text, stops, think)
    return text


def _without_thought(text, stops, think):
    return text.split(think)[-1].lstrip() if think else text


def _without_rest(text, stops, think):
    for stop in filter(None, stops):
        text = text.split(stop)[0]
    return text
