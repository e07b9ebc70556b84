"""Unit language models: vocabulary, warm start, the model, scoring, sampling.

Importing the package imports no torch; `twistlm.lm.vocab` is numpy only and the other files import torch at their top.
"""
