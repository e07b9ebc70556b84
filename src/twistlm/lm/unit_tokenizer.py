"""Units as words, for who opens a unit LM in plain transformers: `<u17>` is unit 17, and `AutoTokenizer` reads them."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from twistlm.lm.vocab import Vocab


def words(vocab: Vocab) -> list[str]:
    """Return the word of each token: `<u0>` … for units, `<s>`, `<pad>`, `<t9>` for one that is none of these."""
    named = [f"<t{token}>" for token in range(vocab.size)]
    named[vocab.pad] = "<pad>"
    if vocab.eos is not None:
        named[vocab.eos] = "<s>" if vocab.eos == vocab.bos else "</s>"
    if vocab.bos is not None:
        named[vocab.bos] = "<s>"
    for unit in range(vocab.n_units):
        named[vocab.offset + unit] = f"<u{unit}>"
    return named


def save_unit_tokenizer(vocab: Vocab, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`; ids are those of `vocab`, unit by unit.

    A text is `<u3><u17>`, with or without spaces, and gets the `<s>` that opens a document, where the model has one. A
    word that is no unit is an error, not another unit.
    """
    named = words(vocab)
    tokenizer = Tokenizer(WordLevel({word: token for token, word in enumerate(named)}))
    tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), Split(Regex(r"<[^<>]*>"), "isolated")])
    special: dict[str, str] = {}
    if vocab.bos is not None:
        begin = named[vocab.bos]
        special["bos_token"] = begin
        tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, vocab.bos)])
    if vocab.eos is not None:
        special["eos_token"] = named[vocab.eos]
    if named[vocab.pad] == "<pad>":  # a published model may pad with a unit, which is no special word then
        special["pad_token"] = "<pad>"
    # On the left, or a short prompt in a batch would be continued behind its padding.
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **special).save_pretrained(folder)
