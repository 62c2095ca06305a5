"""The operations by definition: the same names and signatures, in plain torch.

Slow, and free of every trick that the fast paths play: this is what they are tested against.
"""

from .activation import activate
from .attention import decode_attention
from .embedding import embed
from .linear import norm_linear
from .ngrams import ban_ngrams, ngram_bans, ngram_mask
from .norm import add_norm
from .sampling import sample_tokens
from .search import beam_advance, greedy_advance, row_advance
from .topk import beam_topk

__all__ = [
    "activate",
    "add_norm",
    "ban_ngrams",
    "beam_advance",
    "beam_topk",
    "decode_attention",
    "embed",
    "greedy_advance",
    "ngram_bans",
    "ngram_mask",
    "norm_linear",
    "row_advance",
    "sample_tokens",
]
