"""The operations by definition: the same names and signatures, in plain torch.

Slow, and free of every trick that the fast paths play: this is what they are tested against.
"""

from .attention import decode_attention
from .ngrams import ban_ngrams, ngram_mask

__all__ = ["ban_ngrams", "decode_attention", "ngram_mask"]
