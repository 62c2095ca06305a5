"""Block sizes and splits: what the launchers may rely on, over every shape that they accept."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest

from tritonseq.kernels import launch

HEAD_DIMS = range(1, 257)


def test_query_tiles_hold_their_rows():
    for beams, rows, head_dim in itertools.product(range(1, 40), (1, 2), HEAD_DIMS):
        fitting = launch.beams_per_program(beams, rows, head_dim)
        tile = launch.query_rows(fitting * rows)
        assert 1 <= fitting <= beams
        assert fitting * rows <= tile <= 16
        assert tile in (1, 2, 4, 16)
        if head_dim <= 128 and beams * rows <= 16:
            assert fitting == beams, "all beams of a sample share a tile of keys"


def test_tiles_are_powers_of_two_within_their_bytes():
    for rows, head_dim, item_size in itertools.product((1, 2, 4, 16), HEAD_DIMS, (2, 4)):
        keys, depth = launch.key_block(rows, head_dim, item_size), launch.block_dim(head_dim)
        assert depth >= head_dim
        assert depth & (depth - 1) == 0
        assert keys in (16, 32, 64)
        assert keys == 16 or keys * depth * item_size <= launch.TILE_BYTES
        assert launch.warps(rows, head_dim) in (2, 4, 8)


@pytest.mark.parametrize("head_dim", [16, 24, 64, 256, 512])
@pytest.mark.parametrize("splits", [2, 3, 16, 33, 500])
def test_rows_merged_at_once_fit_the_registers(splits, head_dim):
    assert launch.merged_rows(16, 2, 64) == 16
    for block in (1, 2, 4, 16):
        rows = launch.merged_rows(block, splits, head_dim)
        assert block % rows == 0
        assert rows == 1 or rows * splits * head_dim <= launch.MERGED_ELEMENTS


@pytest.mark.parametrize("splits", [None, 1, 2, 3, 7, 50])
def test_splits_cover_every_position(splits):
    for source, target in itertools.product((0, 1, 255, 256, 257, 1000), repeat=2):
        for block in (16, 64):
            count, source_split, target_split = launch.split_lengths(source, target, splits, block)
            assert count == (splits or count)
            assert count * source_split >= source
            assert count * target_split >= target
            assert source_split % block == 0


def test_default_splits_do_not_move_when_a_neighbour_is_longer():
    lengths = {launch.split_lengths(s, t, None, 32)[1:] for s in range(2000) for t in (1, 700)}
    assert len(lengths) == 1


def test_strides_by_name():
    import torch

    x = torch.empty(2, 3, 5)
    assert launch.strides("x", x, "ab") == {"x_stride_a": 15, "x_stride_b": 5}
    assert launch.strides("x", x[0], "abc") == {"x_stride_a": 5, "x_stride_b": 1, "x_stride_c": 0}
    assert launch.strides("x", None, "a") == {"x_stride_a": 0}


def test_padding_is_read_where_every_row_has_it():
    import torch

    padded, columns = torch.zeros(2, 3, 128), launch.readable_columns
    for rows in (padded, padded.view(6, 128)):
        assert columns(rows[..., :100], 64) == 128
        assert columns(rows[..., :100], 16) == 112
        assert columns(rows[..., :64], 64) == 64
        # The last row ends where its memory does.
        assert columns(rows[..., 28:], 64) == 100
    assert columns(padded.view(-1)[:600].view(2, 3, 100), 64) == 128
    assert columns(torch.zeros(2, 3, 100), 64) == 100
    assert columns(padded[:1, :1, 28:].expand(2, 3, 100), 64) == 128
    assert columns(padded.view(6, 128).t()[:100], 64) == 6


def in_a_fresh_interpreter(code: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_triton_on_the_cpu_is_refused_by_name():
    done = in_a_fresh_interpreter(
        "import torch; from tritonseq.kernels import decode_attention, ngram_mask\n"
        "calls = (lambda: decode_attention(*torch.zeros(3, 1, 1, 1, 1, 16), impl='triton'),\n"
        "         lambda: ngram_mask(torch.zeros(1, 4).long(), 2, 5, impl='triton'))\n"
        "for call in calls:\n"
        "    try: call()\n"
        "    except ValueError as error: print(error)\n"
    )
    assert done.returncode == 0, done.stderr
    remedy = 'impl="triton" needs a GPU, or TRITON_INTERPRET=1 set before triton is imported'
    assert done.stdout.count(remedy) == 2


def test_triton_is_imported_by_its_first_use():
    done = in_a_fresh_interpreter(
        "import sys, torch; from tritonseq.kernels import decode_attention, ban_ngrams\n"
        "decode_attention(*torch.zeros(3, 1, 1, 1, 1, 16))\n"
        "ban_ngrams(torch.zeros(1, 5), torch.zeros(1, 4).long(), 2)\n"
        "print('triton' in sys.modules)\n"
        "try: decode_attention(*torch.zeros(3, 1, 1, 1, 1, 16), impl='triton')\n"
        "except ValueError: print('triton' in sys.modules)\n"
    )
    assert done.stdout.split() == ["False", "True"], done.stderr
