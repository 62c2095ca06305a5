"""Operations for decoding with shared sources and beams, in plain torch and in Triton.

They take tensors, strides and numbers only, need no model and no configuration, and import
Triton when one of them first takes that path.
"""

from . import library  # noqa: F401  (registers torch.ops.tritonseq)
from .activation import activate
from .advance import beam_advance, greedy_advance
from .attention import decode_attention
from .checks import is_gpu as is_gpu
from .embedding import embed
from .linear import norm_linear
from .ngrams import ban_ngrams, ngram_bans, ngram_mask
from .norm import add_norm
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
]
