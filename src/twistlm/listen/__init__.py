"""Human evaluation of speech: plan a study, let people rate it, analyse what they said. Imports no torch.

`plan` makes a study's folder, `server` lets raters in, `analysis` turns their answers into numbers.
"""
