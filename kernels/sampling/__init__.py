"""`sample_tokens`: one token per row, drawn from what the cuts leave of its distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from tritonseq.kernels.checks import (
    FLOATS,
    Impl,
    check_integers,
    check_tensors,
    number,
    takes_triton,
    whole,
)

from .call import Cuts
from .eager import sample_in_torch

# Beyond these, float32 knows no number for a temperature or its inverse. The coldest one takes
# the best token and the hottest one knows no logits but minus infinity, so that nothing is lost.
COLDEST, HOTTEST = 1e-38, 1e38


def sample_tokens(
    logits: Tensor,
    seeds: Tensor,
    steps: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    impl: Impl = "auto",
) -> Tensor:
    """Draw one token per row by probability, from random numbers that are the row's own.

    The cuts come in transformers' order: temperature, `top_k`, `top_p` among what that leaves
    (Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020), `min_p` (Nguyen et
    al., "Turning Up the Heat: Min-p Sampling", 2024). Equal logits stay or go together: all that
    tie with the last token kept are kept. In `top_p` transformers lets its sort break such a tie.

    The draw is an exponential race (Efraimidis and Spirakis, "Weighted Random Sampling with a
    Reservoir", 2006): every token arrives after a random time, the likelier the sooner, and the
    first one wins. The times come from Philox 4x32-10 (Salmon et al., "Parallel Random Numbers:
    As Easy as 1, 2, 3", 2011) with the seed as key. The word `token % 4` of the counter
    `(token // 4, step, step >> 32, 0)` is a token's, so that seed, step and logits alone decide:
    a row's neighbours, the device and `impl` do not, but where rounding decides between two
    tokens that arrive, or two sums of probabilities that end, at almost the same place.

    Args:
        logits: `[R, V]` float16, bfloat16 or float32; rows may be strided. Minus infinity is
            never drawn. Whatever else a row holds, its token is one of the vocabulary; it means
            nothing if there is a NaN, or no logit above minus infinity.
        seeds: `[R]` int32 or int64, any value: which stream of random numbers is the row's.
        steps: `[R]` int32 or int64: where in its stream the row is. Count it up at every draw.
        temperature: what logits are divided by, above 0.
        top_k: how many of the best tokens are kept; 0 for all.
        top_p: the probability that the fewest, best tokens must reach; above 0, 1 for all.
        min_p: the least probability of a token, as a share of the best one's; 0 for any.
        impl: "torch", "triton" or, by default, what suits the device.

    Returns:
        `[R]` int64. No gradient flows, and no GPU is waited for.

    Raises:
        ValueError: for shapes, dtypes, devices and options that do not fit; the text says what
            would.
        TypeError: for what is no tensor, or no number.
    """
    check_tensors({"logits": logits, "seeds": seeds, "steps": steps})
    if logits.dim() != 2 or logits.shape[1] == 0 or logits.dtype not in FLOATS:
        raise ValueError(
            f"logits are {logits.dtype} {list(logits.shape)}; "
            "pass float16, bfloat16 or float32 [R, V] with V > 0"
        )
    check_integers("seeds", seeds, logits.shape[:1])
    check_integers("steps", steps, logits.shape[:1])
    cuts = Cuts(
        number("temperature", temperature),
        whole("top_k", top_k),
        number("top_p", top_p),
        number("min_p", min_p),
    )
    cuts.check()
    cuts = cuts._replace(temperature=min(max(cuts.temperature, COLDEST), HOTTEST))
    with torch.no_grad():
        if takes_triton(impl, logits.device):
            from .kernel import sample_in_triton

            return sample_in_triton(logits, seeds, steps, cuts)
        return sample_in_torch(logits, seeds, steps, cuts)
