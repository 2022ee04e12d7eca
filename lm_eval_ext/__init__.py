"""The lm-evaluation-harness side of eval-ext: the model `hf-store`, found by a stock `lm_eval`.

Importing this package imports nothing else: it is on the path of every interpreter start (see `autoload`).
"""
