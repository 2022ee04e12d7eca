"""The MTEB side of eval-ext. Version 0.1 only reserves the model names `layer-wrapper...`.

Importing this package imports nothing else.
"""
