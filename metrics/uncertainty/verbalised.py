"""How sure the answer says it is: a confidence that its text states in figures."""

import math
import re

from torch import Tensor

from metrics.core import metric

_PERCENT = r"\\?%|percent\b|per cent\b"
_NUMBER = (
    r"(?<![\d.,\-−])(?P<value>\d+(?:\.\d+)?|\.\d+)"
    rf"\s*(?P<of>{_PERCENT}|(?:/|out of)\s*100?(?!\.?\d))?"
    rf"(?!\s*(?:{_PERCENT}))(?![\d.,]*\d)(?!e[-+]?\d)"  # whole, not the start of a longer number
    r"(?![ \t]*(?:-|–|to|/|out of|of|in)[ \t]*\d)"  # nor of a range
    r"(?!\s*(?:stars?\b|points?\b|:|\(?\s*(?:out of|on a scale)))"  # nor a share of something else
)
_RANGE = r"\(\s*0\s*%?\s*(?:-|–|to)\s*(?:1(?:\.0+)?|100)\s*%?\s*\)"
_TO_HUNDRED = re.compile(r"(?:-|–|to)\s*100\s*%?\s*\)")
_ABOUT = r"\b(?:at|about|around|roughly|approximately)\b"
_OF_IT = r"\b(?:in|of) (?:(?:my|this|the) answer|this|that|it)\b(?! of)"
_IN_IT = r"in (?:(?:my|this|the) )?(?:answer|this|it)\b(?=\s*(?:is\b|at\b|[:=\-–(*]|\d+\s*\\?%))"
_WORDS = rf"\b(?:level|score|rating|{_IN_IT}|is|of|as)\b|{_ABOUT}"
_GAP = rf"(?:{_RANGE}|{_WORDS}|(?!\.\s)[^\w\n]){{0,24}}?"
_NO_INTERVAL = r"\b(?! interval| band| region| bound)"
_NOUN = re.compile(rf"\b(?:confidence|certainty){_NO_INTERVAL}{_GAP}{_NUMBER}", re.I)
_ADJECTIVE = re.compile(rf"\bconfident\b(?:{_ABOUT}|{_OF_IT}|(?![.?]\s)[^\w\n]){{0,24}}?{_NUMBER}(?<=%|t)", re.I)
_LINE = re.compile(rf"^[^\w\n]*probability[^\w\n]*?[:=][^\w\n]*?{_NUMBER}", re.I | re.M)
_AFTER = re.compile(
    rf"(?<![\d.,\-−])(?P<value>\d+(?:\.\d+)?)\s*(?P<of>{_PERCENT})\s*"
    rf"(?:confident|certain|sure|confidence|certainty){_NO_INTERVAL}",
    re.I,
)


def stated_confidence(text: str) -> float:
    """The confidence that a text states in figures; NaN where it states none.

    Read as a statement: a number behind "confidence" or "certainty", with nothing between them but punctuation, the
    range 0-1 or 0-100 in brackets and words such as "level", "score", "is", "of", "about" or "in my answer is"; a
    percentage behind "confident"; a number behind "Probability:" at the start of a line; a percentage before
    "confident", "certain", "sure", "confidence" or "certainty". Of several, the last. Intervals ("95% confidence
    interval") are none.

    With "%", "percent", "/10", "/100", "out of 10" or "out of 100" the number is a share of that; without, up to 1 it
    is a fraction, and above 10 a percentage. No statement: a number above 1 up to 10 without either, which could be
    both; a share above 1; a number on another scale ("4/5", "(1-10): 8", "3 stars"); a negative one; a decimal comma.
    Words ("very sure") are not read.
    """
    found = [match for pattern in (_NOUN, _ADJECTIVE, _LINE, _AFTER) for match in pattern.finditer(text)]
    stated = [(match.start("value"), _share(match)) for match in found]
    readable = [pair for pair in stated if not math.isnan(pair[1])]
    return max(readable)[1] if readable else math.nan


def _share(match: re.Match[str]) -> float:
    value, of = float(match["value"]), (match["of"] or "").replace(" ", "").lower().replace("outof", "/")
    if not of and _TO_HUNDRED.search(match[0]):
        of = "/100"
    if of == "/10":
        value /= 10
    elif of or value > 10:
        value /= 100
    return value if value <= 1 else math.nan


@metric(higher="confident", unit="probability", source="arXiv:2305.14975")
def verbalised_confidence(stated_confidence: Tensor) -> Tensor:
    """The confidence that the answer's text states in figures: "Confidence: 85%", "I am 90 % sure", "Probability: 0.7".

    Of the whole scored text, whatever the span; unscored where it states none, or where texts were not stored. The
    prompt has to ask for it. LM-Polygraph's Verbalized1S is 1 minus this, with a pattern of the user's own and the
    first match; here it is the last.
    """
    return stated_confidence.clone()
