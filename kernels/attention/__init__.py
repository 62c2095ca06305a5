"""`decode_attention`: one step of attention for all beams of every sample."""

from __future__ import annotations

import torch
from torch import Tensor

from tritonseq.kernels.checks import Impl, check_tensors, grad_off, is_for_triton, number, whole

from .call import AttentionCall
from .eager import attend_by_definition, attend_on_cpu


def decode_attention(
    query: Tensor,
    new_key: Tensor | None = None,
    new_value: Tensor | None = None,
    *,
    source_key: Tensor | None = None,
    source_value: Tensor | None = None,
    source_len: Tensor | None = None,
    target_key: Tensor | None = None,
    target_value: Tensor | None = None,
    lineage: Tensor | None = None,
    step: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    splits: int | None = None,
    counters: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Attend to a source that all beams share and to what each beam has generated, and append.

    `B` samples, `K` beams, `H` heads of size `D`. Each beam brings `R` new rows of keys and values
    (1 or 2) and `Q` query rows, which belong to the last of them: a row whose output is not needed
    is not computed. Keys and values are stored once: the source per sample, the generated part
    with one slot per beam and position. The lineage says which slot of each position a beam
    descends from, so that beams change places without a copy. Every length is per sample, and no
    GPU is waited for.
    Any number of beams works. In Triton up to 16 query rows share one read of the keys; more are
    handled in blocks of 16, each of which reads the source again. In torch more than 16 beams
    gather their own histories.

    Args:
        query: `[B, K, Q, H, D]` float16, bfloat16 or float32, with `Q` 1 or 2.
        new_key, new_value: `[B, K, R, H, D]`, `Q <= R <= 2`, those of the newest tokens. The
            queries are the last `Q` of these rows, and row `r` sees the new rows `0..r` of its
            own beam.
        source_key, source_value: `[B, H, S, D]`.
        source_len: `[B]` int32 or int64, the true lengths, 0 to `S`: on the CPU that is checked,
            elsewhere they are clamped. `S` everywhere by default.
        target_key, target_value: `[B, H, T, K, D]`, **written in place**: row 0 of the new keys
            and values goes to `[b, :, step[b], k]`; row 1 is never stored. Without them nothing
            is stored. Their elements must share no memory, with each other or other arguments.
        lineage: `[B, T, K]` int32 or int64, the slot of position `t` that beam `k` descends
            from. Needed for more than one beam, and not read for one; nor is it read from position
            `step[b]` on, where a new row is in its own slot. What is no slot, 0 to `K - 1`, shows
            a beam nothing of its position.
        step: `[B]` int32 or int64, the positions stored so far. It must be less than `T`: on the
            CPU that is checked, elsewhere nothing is stored. A negative step marks an idle
            sample: nothing is stored for it and its output is zero.
        bias: `[H, N]` float32, or `[B, K, Q, H, N]` where every query row has one of its own,
            added to the scores by distance: from source position `n` it is
            `source_len + step + r - n`, from generated position `t` it is `step + r - t` (with a
            `step` of 0 where none is given), clamped to `0..N-1`. `r` is the row's place among
            the new ones, or among the queries where nothing is new.
        scale: of the scores; `D ** -0.5` by default.
        splits: programs that share the keys of one (sample, head) in Triton; by default a
            function of the shape alone.
        counters: `[N]` int32 with `N >= B * H * K`, **zeroed once by the caller** and left at zero
            by every call. With them the program that finishes last merges the splits (Triton on
            NVIDIA); without, or elsewhere, a second launch does. Calls that may run at the same
            time must not share them.
        impl: "torch", "triton" or, by default, what suits the device.

    The last dimension of queries, keys and values, and of a bias of every query row, must be
    contiguous; their other strides are free. What lies beyond a length, beyond a step, or in a slot
    that no beam descends from may be NaN or infinite. A query that sees nothing gets zeros. Sums
    accumulate in float32. No gradient flows.

    Returns:
        `[B, K, Q, H, D]`, contiguous, in the query's dtype.

    Raises:
        ValueError: for shapes, dtypes, devices or memory that do not fit; the text says what would.
        TypeError: for what is no tensor, or no number.
    """
    tensors = (
        query, new_key, new_value, source_key, source_value, source_len,
        target_key, target_value, lineage, step, bias, counters,
    )  # fmt: skip
    check_tensors(AttentionCall._fields, tensors)
    call = AttentionCall(
        *tensors,
        _usual_scale(query) if scale is None else number("scale", scale),
        None if splits is None else whole("splits", splits),
    )
    call.check()
    if torch.compiler.is_compiling():
        result: Tensor = torch.ops.tritonseq.decode_attention(
            *tensors[:-1], scale, splits, counters, impl
        )
        return result
    device = query.device
    with grad_off():
        if is_for_triton(impl, device):
            from .kernel import attend_in_triton

            return attend_in_triton(call)
        return attend_on_cpu(call) if device.type == "cpu" else attend_by_definition(call)


def _usual_scale(query: Tensor) -> float:
    """That of the scores; anything for a query that is yet to be refused."""
    return query.shape[-1] ** -0.5 if query.numel() and query.dim() else 1.0
