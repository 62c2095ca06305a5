"""Float32 against transformers, and UniLM against upstream's method: the same ids, or a
counterexample.

Small random models whose logits are spread and whose hypotheses end; prompts and sources of
different lengths; matrix products in full float32.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from generate import engines
from generate.checkpoints import TINY
from generate.workloads import UNILM

import tritonseq
from suite.checkout import ROOT
from suite.store import checkpoint_of

from . import baselines  # noqa: F401  (imports transformers' models while the part waits)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from suite.task import Task

sys.path += [str(ROOT / "tests" / "support" / name) for name in ("", "for_unilm")]

BEAMS = (1, 4, 5, 8)
NGRAMS = (0, 3)
SAMPLES, SOURCE, STEPS = 6, 17, 24
# Sums of log-probabilities that lie closer than float32 adds up are a tie, not a difference.
TIE = 2e-5


def run(task: Task) -> None:
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    for family in ("gpt2", "t5", "bart"):
        if pair := task.attempt(f"{family} loaded", load, family, task):
            del task.results[f"{family} loaded"]
            compare_family(family, pair, task)
    folder = checkpoint_of(task, "unilm") if task.setting.rehearse else tiny_unilm(task)
    for beams in BEAMS[1:]:
        name = f"unilm beams {beams}"
        task.attempt(name, compare_unilm, folder, beams, task, needs=2.0)
        judge(name, task)


def compare_family(family: str, pair: tuple[Any, Any], task: Task) -> None:
    ids, mask = ragged(family, task.device)
    for beams in BEAMS[:2] if task.setting.rehearse else BEAMS:
        for ngram in NGRAMS:
            name = f"{family} beams {beams} n-gram {ngram}"
            options = {
                "num_beams": beams,
                "no_repeat_ngram_size": ngram,
                "max_new_tokens": STEPS,
                "do_sample": False,
            }
            task.attempt(name, compare, pair, ids, mask, options, needs=2.0)
            judge(name, task)


def judge(name: str, task: Task) -> None:
    """A counterexample is a failure of the part."""
    found = task.results.get(name)
    if isinstance(found, dict) and found["verdict"] == "different":
        task.fail(name, f"differs from the reference: {found['counterexample']}")


def load(family: str, task: Task) -> tuple[Any, Any]:
    """The same weights in both engines."""
    if family == "gpt2":
        import tiny

        theirs = tiny.hf_gpt2(seed=11)
    else:
        import seq2seq

        theirs = seq2seq.hf_model(family, seed=11)
    folder = task.setting.work / f"exactness-{family}"
    theirs.save_pretrained(folder)
    ours = tritonseq.load(folder, device=task.device, dtype=torch.float32)
    return theirs.to(task.device), ours


def ragged(family: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids `[B, S]` and their mask, padded on the left for GPT-2 and on the right for the others."""
    if family == "gpt2":
        import tiny

        ids, mask = tiny.prompts(SAMPLES, SOURCE, seed=5, ragged=True)
    else:
        import seq2seq

        pad = 0 if family == "t5" else 1
        ids, mask = seq2seq.sources(SAMPLES, SOURCE, pad=pad, seed=5, ragged=True)
    return ids.to(device), mask.to(device)


def compare(
    pair: tuple[Any, Any], ids: Tensor, mask: Tensor, options: dict[str, Any]
) -> dict[str, Any]:
    theirs, ours = pair
    wanted_more = {"return_dict_in_generate": True, "output_scores": True}
    # With the habits of transformers that are not ours: what it fills the ends of beams with, and
    # padding that counts as text.
    mine = ours.generate(ids, mask, hf_exact=True, **options, **wanted_more)
    other = theirs.generate(ids, attention_mask=mask, **options, **wanted_more)
    # Recorded scores keep the choice of tokens out of the graph; so also without, and twice: when
    # the graph is captured, and when it is replayed.
    plain = [ours.generate(ids, mask, hf_exact=True, **options) for _ in range(2)]
    for sequences in plain:
        if not torch.equal(sequences.cpu(), mine.sequences.cpu()):
            note = "differs from itself where no scores are recorded"
            return {"verdict": "different", "counterexample": note}
    if torch.equal(mine.sequences.cpu(), other.sequences.cpu()):
        return {"verdict": "identical"}
    return difference(mine, other, ids.shape[1] if not theirs.config.is_encoder_decoder else 0)


def difference(mine: Any, other: Any, prompt: int) -> dict[str, Any]:
    """The first sample that differs, and by how much its hypotheses do, as a score."""
    a, b = mine.sequences.cpu(), other.sequences.cpu()
    width = min(a.shape[1], b.shape[1])
    rows = [row for row in range(len(a)) if not torch.equal(a[row, :width], b[row, :width])] or [0]
    row = rows[0]
    gap = score_gap(mine, other, row, prompt)
    return {
        "verdict": "tie" if gap is not None and gap < TIE else "different",
        "samples": rows,
        "counterexample": {
            "sample": row,
            "ours": a[row].tolist(),
            "theirs": b[row].tolist(),
            "score gap": gap,
        },
    }


def score_gap(mine: Any, other: Any, row: int, prompt: int) -> float | None:
    """How far apart the two answers are by transformers' own scores."""
    if getattr(other, "sequences_scores", None) is not None:
        return abs(float(mine.sequences_scores[row]) - float(other.sequences_scores[row]))
    a, b = mine.sequences[row].tolist(), other.sequences[row].tolist()
    place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    first = len(b) - len(other.scores)
    if place is None or place < max(first, prompt):
        return None
    scores = other.scores[place - first][row]
    return abs(float(scores[a[place]]) - float(scores[b[place]]))


def tiny_unilm(task: Task) -> Path:
    from generate.s2s_folder import write_folder

    folder = task.setting.work / "exactness-unilm"
    write_folder(folder, TINY["unilm"])
    return folder


def compare_unilm(folder: Path, beams: int, task: Task) -> dict[str, Any]:
    """The same length for all: upstream's method as it stands here takes no padding."""
    options = UNILM.options | {"num_beams": beams}
    workload = replace(UNILM, batch=SAMPLES, source=SOURCE, new_tokens=STEPS, options=options)
    inputs = workload.inputs(TINY["unilm"].vocabulary, task.device)
    job = engines.Job(folder, workload, inputs)
    makers: tuple[Callable[[engines.Job], engines.MeasuredEngine], ...]
    makers = (engines.Tritonseq, engines.Reprojection)
    mine, other = (make(job).generate().cpu() for make in makers)
    if torch.equal(mine, other):
        return {"verdict": "identical"}
    row = int((mine != other).any(1).nonzero()[0])
    counterexample = {"sample": row, "ours": mine[row].tolist(), "theirs": other[row].tolist()}
    return {"verdict": "different", "counterexample": counterexample}
