"""Trained scores: classifiers of right and wrong answers, judged on documents that they were not fitted on.

`estimators` and the modules beside it learn from plain arrays; `methods` says which inputs each published method gives
to which of them; `nested` fits and judges; `rows` reads a store; `probe` is the folder on disk.
"""
