"""The arguments of `decode_attention` as one record that checks itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tritonseq.kernels.checks import FLOATS, check_integers, check_last_dim, check_written


class AttentionCall(NamedTuple):
    """The arguments of one call of `decode_attention`: the tensors, then the others."""

    query: Tensor
    new_key: Tensor | None
    new_value: Tensor | None
    source_key: Tensor | None
    source_value: Tensor | None
    source_len: Tensor | None
    target_key: Tensor | None
    target_value: Tensor | None
    lineage: Tensor | None
    step: Tensor | None
    bias: Tensor | None
    counters: Tensor | None
    scale: float
    splits: int | None

    @property
    def new_rows(self) -> int:
        """`R`: 0, 1 or 2."""
        return 0 if self.new_key is None else self.new_key.shape[2]

    @property
    def has_bias_by_row(self) -> bool:
        """Whether every query row has a bias of its own, `[B, K, Q, H, N]`."""
        return self.bias is not None and self.bias.dim() == 5

    @property
    def first_row(self) -> int:
        """The place of the first query among the new rows."""
        return max(self.new_rows - self.query.shape[2], 0)

    def of_samples(self, own: slice) -> AttentionCall:
        """The same call for some of its samples alone."""
        # Of each sample is what comes before the bias, and a bias by row.
        names = self._fields[: self._fields.index("bias") + self.has_bias_by_row]
        whole = {name: getattr(self, name) for name in names}
        return self._replace(**{name: x[own] for name, x in whole.items() if x is not None})

    def check(self) -> None:
        """Raise ValueError unless the arguments, dense tensors all, fit together."""
        query = self.query
        if query.dim() != 5 or query.shape[2] not in (1, 2):
            raise ValueError(f"query is {list(query.shape)}; pass [B, K, Q, H, D] with Q 1 or 2")
        if query.dtype not in FLOATS:
            raise ValueError(f"query is {query.dtype}; pass float16, bfloat16 or float32")
        samples, beams, rows, heads, head_dim = query.shape
        if head_dim == 0:
            raise ValueError(f"query is {list(query.shape)}; pass heads of size 1 or more")
        check_last_dim("query", query)
        if self.new_key is not None and self.new_key.shape[2:3] == (2,):
            rows = 2
        _check_pair("new", self.new_key, self.new_value, query, (samples, beams, rows, heads))
        length = self.source_key.shape[2:3] if self.source_key is not None else ()
        _check_pair("source", self.source_key, self.source_value, query, (samples, heads, *length))
        length = self.target_key.shape[2:3] if self.target_key is not None else ()
        shape = (samples, heads, *length, beams)
        _check_pair("target", self.target_key, self.target_value, query, shape)
        if self.source_key is None and self.new_key is None:
            raise ValueError("there is nothing to attend to; pass source_key, new_key or both")
        if self.source_len is not None and self.source_key is None:
            raise ValueError("source_len is given without source_key; pass both or neither")
        check_integers("source_len", self.source_len, (samples,))
        check_integers("step", self.step, (samples,))
        self._check_target()
        self._check_bias()
        if self.splits is not None and self.splits < 1:
            raise ValueError(f"splits is {self.splits}; pass 1 or more, or None for the default")
        self._check_counters(samples * heads * beams)
        self._check_memory()

    def _check_memory(self) -> None:
        if self.target_key is None and self.counters is None:
            return
        tensors = dict(zip(self._fields, self[:12], strict=False))
        names = ("target_key", "target_value", "counters")
        check_written({name: tensors.pop(name) for name in names}, tensors)

    def _check_target(self) -> None:
        if self.target_key is None:
            if self.lineage is not None:
                raise ValueError("lineage is given without target_key; pass both or neither")
            return
        if self.new_key is None or self.step is None:
            raise ValueError("target_key needs new_key and step: pass what to append, and where")
        samples, _, length, beams, _ = self.target_key.shape
        if self.lineage is None and beams > 1:
            raise ValueError(f"lineage is missing; for {beams} beams pass it as [B, T, K]")
        check_integers("lineage", self.lineage, (samples, length, beams))

    def _check_bias(self) -> None:
        bias, rows = self.bias, self.query.shape[:4]
        if bias is None:
            return
        fits = bias.shape[:-1] in (rows[3:], rows) and bias.shape[-1] > 0
        if not fits or bias.dtype != torch.float32:
            by_row = ", ".join(map(str, (*rows, "N")))
            raise ValueError(
                f"bias is {bias.dtype} {list(bias.shape)}; "
                f"pass float32 [{rows[3]}, N] or [{by_row}] with N > 0"
            )
        if self.has_bias_by_row:
            check_last_dim("bias", bias)

    def _check_counters(self, needed: int) -> None:
        counters = self.counters
        if counters is None:
            return
        fits = counters.dim() == 1 and counters.shape[0] >= needed and counters.is_contiguous()
        if not fits or counters.dtype != torch.int32:
            raise ValueError(
                f"counters are {counters.dtype} {list(counters.shape)}; pass int32 [N] with "
                f"N >= B * H * K = {needed}, contiguous, and zeroed once"
            )


def _check_pair(
    name: str, key: Tensor | None, value: Tensor | None, query: Tensor, shape: tuple[int, ...]
) -> None:
    """`shape` is all but the head size."""
    if key is None and value is None:
        return
    if key is None or value is None:
        raise ValueError(f"one of {name}_key and {name}_value is missing; pass both or neither")
    shape = (*shape, query.shape[4])
    for side, tensor in (("key", key), ("value", value)):
        if tensor.shape != shape:
            raise ValueError(
                f"{name}_{side} is {list(tensor.shape)}; "
                f"with a query of {list(query.shape)} pass {list(shape)}"
            )
        if tensor.dtype != query.dtype:
            raise ValueError(f"{name}_{side} is {tensor.dtype}; convert it to {query.dtype}")
        check_last_dim(f"{name}_{side}", tensor)
