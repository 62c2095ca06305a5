"""Operations for decoding with shared sources and beams, in plain torch and in Triton.

They take tensors, strides and numbers only, need no model and no configuration, and import
Triton when one of them first takes that path.
"""

from . import _library  # noqa: F401  (registers torch.ops.tritonseq)
from .attention import decode_attention
from .ngrams import ban_ngrams, ngram_mask

__all__ = ["ban_ngrams", "decode_attention", "ngram_mask"]
