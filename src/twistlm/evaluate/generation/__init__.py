"""What models say. `ngrams` and `perplexities` are the field's measures of generated text, as pure functions.

Import the file you need: this package pulls in nothing by itself.
"""
