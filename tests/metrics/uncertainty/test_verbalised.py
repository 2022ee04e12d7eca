"""Confidence that an answer states in figures."""

import math

import pytest
import torch

from metrics.choosing import choose
from metrics.core import metrics
from metrics.record import Key, Record, Span
from metrics.score import score, units
from metrics.uncertainty.verbalised import stated_confidence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Guess: Paris\nProbability: 0.85", 0.85),  # lm-polygraph 0.7.0, Verbalized1S: 1 - 0.15
        ("Answer: 4\nConfidence: 85%", 0.85),
        ("**Confidence:** 100", 1.0),
        ("confidence: .25.", 0.25),
        ("I am 99.5 percent sure that 3", 0.995),
        ("I'm 90% confident.", 0.9),
        ("My confidence level in this answer is about 60 percent", 0.6),
        ("Confidence (0-100): 80", 0.8),
        ("Confidence (0% to 100%): 33%", 0.33),
        ("Confidence: 8/10", 0.8),
        ("certainty of 75/100", 0.75),
        ("confidence 0", 0.0),
        ("Confidence: 1", 1.0),
        ("Confidence: 0.5. No: confidence 0.9", 0.9),
        ("Confidence: 0.9, but the confidence is 130%", 0.9),
        ("Confidence: 8", math.nan),  # of ten, or of a hundred
        ("Confidence: 120%", math.nan),
        ("Confidence: 1234", math.nan),
        ("Confidence: 10-20%", math.nan),
        ("Confidence: high", math.nan),
        ("Confidence:\n85%", math.nan),
        ("the probability is 0.25", math.nan),
        ("The 95% confidence interval is 0.2", math.nan),
        ("Confidence interval: 0.3", math.nan),
        ("I am confident that 40% of them left", math.nan),
        ("I am confident. 20 apples", math.nan),
        ("", math.nan),
        ("Confidence: 9 out of 10", 0.9),
        ("Confidence: 9/10.", 0.9),
        ("My confidence is 8/10.", 0.8),
        ("Confidence: 90/100.", 0.9),
        ("Confidence 10 out of 10.", 1.0),
        ("Confidence (0-100): 1", 0.01),
        ("Confidence (0-100): 5", 0.05),
        (r"Confidence: 1\%", 0.01),
        ("I am confident in my answer (90%).", 0.9),
        ("I am confident in this answer: 95%", 0.95),
        ("I'm confident of this at 90%", 0.9),
        ("My confidence in this is 0.9", 0.9),
        ("Confidence in my answer - 85%", 0.85),
        ("Confidence in this answer (0-1) = 0.7", 0.7),
        ("Confidence in answer: 90%", 0.9),
        ("Confidence: 0.85\n- 2 reasons", 0.85),
        *(
            (f"Confidence{of}", math.nan)
            for of in (": 1 (out of 10)", ": 1 (on a scale of 1 to 5)", ": 1 point", " level 1: no")
        ),
        *((f"Confidence: {other}", math.nan) for other in ("7/10.0", "1/100.5", "18/20.", "1/1000")),
        ("I'm confident: 80%", 0.8),
        ("Confidence - 0.8", 0.8),
        ("I'm confident the answer is 42", math.nan),
        ("I am confident in my answer of 42", math.nan),
        ("I am confident: 12", math.nan),
        ("Confident? 12%", math.nan),
        ("My confidence in the answer 42 is high", math.nan),
        *((f"Confidence: {of}", math.nan) for of in ("1/5", "4/5", "1 / 5", "1 of 5", "1 in 10", "18/20", "1 star")),
        *((f"Confidence ({scale})", math.nan) for scale in ("1-10): 1", "1-10): 8", "1 to 5): 20", "0-10): 8")),
        *((f"Confidence: {other}", math.nan) for other in ("0,85", "85,5 %", "1e-1", "-0.5", "10%-20%", "10% to 20%")),
    ],
)
def test_stated_confidence(text, expected):
    assert stated_confidence(text) == pytest.approx(expected, nan_ok=True)


def record(doc, answer):
    spans = {"answer": Span(0, 2), "generation": Span(0, 2)}
    return Record(Key("toy", doc, 0, 0), "generate_until", 3, 2, spans, answer, "p", "d", "r")


def test_verbalised_confidence():
    assert metrics()["verbalised_confidence"].compute(torch.tensor(0.3)) == pytest.approx(0.3)
    records = [record(0, "Confidence: 70%"), record(1, "no idea"), record(2, None)]
    chosen = units({r.key: r.entry() for r in records})
    table = score(chosen, choose("verbalised_confidence"), lambda _names, _keys: iter(records))
    assert table.values["verbalised_confidence"] == pytest.approx([0.7, math.nan, math.nan], nan_ok=True)
    assert table.unscored["verbalised_confidence"] == {
        "the answer states no confidence": 1,
        "no text of an answer is stored": 1,
    }
