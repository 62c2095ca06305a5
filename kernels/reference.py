"""Reference implementations: the same names and signatures, by definition, in plain torch.

Slow, and free of every trick that the fast paths play: this is what they are tested against.
"""

from tritonseq.kernels.activation.reference import activate
from tritonseq.kernels.advance.reference import beam_advance, greedy_advance, row_advance
from tritonseq.kernels.attention.reference import decode_attention
from tritonseq.kernels.embedding.reference import embed
from tritonseq.kernels.linear.reference import norm_linear
from tritonseq.kernels.ngrams.reference import ban_ngrams, ngram_bans, ngram_mask
from tritonseq.kernels.norm.reference import add_norm
from tritonseq.kernels.topk.reference import beam_topk

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
]
