"""Numbers that may be published: each with a confidence interval, a sample size, and the protocol that made it.

`stats` resamples, `perplexity` scores held-out units, `pairs` compares minimal pairs, `suites` finds the benchmarks,
`asr` and `resynthesis` measure intelligibility. Import the file you need: this package pulls in nothing by itself.
"""
