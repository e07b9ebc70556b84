"""From a folder of speech to batches of units: manifest, tokenize, shards, packing, stream. No torch.

Read in that order: `manifest` says which clips there are, `tokenize` turns them into Parquet `shards`, `packing` lays
documents into rows and `stream` hands out batches. Import from the submodules.
"""
