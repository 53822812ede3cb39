"""The reference editor's vocabulary: a CLIP tokenizer whose merges come from the words that it was taught.

Most of these become one token, some a few, since pairs are merged in the order in which the words came. Any other word
falls apart into letters, so that every prompt can be read, if not understood.
"""

from __future__ import annotations

from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from worker.reference.scenes import COLOURS, GROUNDS, THINGS

LENGTH = 77
END = "</w>"
GENERAL = (
    "a an the and of on in at with no empty nothing just only photo photograph picture image scene background "
    "abstract shapes colours pattern clouds text letters woman astronaut cat cup coffee rocket motorcycle surface "
    "texture man person people face hand dog bird horse house street tree trees flower flowers car boat water sky sea "
    "beach mountain forest field garden city building wall window door road bridge river lake night day light dark "
    "small big old new beautiful wedding party suit dress hat red"
)


def tokenizer() -> CLIPTokenizer:
    """The tokenizer, made anew: the same each time."""
    letters = sorted(ByteLevel.alphabet())
    words = sorted({*GENERAL.split(), *COLOURS, *THINGS, *GROUNDS})
    merges: dict[Any, None] = {}
    for word in words:
        made = word[0] if len(word) > 1 else word + END
        for position, letter in enumerate(word[1:], 2):
            piece = letter + (END if position == len(word) else "")
            merges[made, piece] = None
            made += piece
    pieces = letters + [letter + END for letter in letters] + [left + right for left, right in merges]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=LENGTH)
