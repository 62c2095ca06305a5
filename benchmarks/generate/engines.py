"""The engines, one small class each: a checkpoint and inputs in, new tokens `[B, T]` out."""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from generate import reprojection
from generate.checkpoints import quiet_transformers
from generate.conversion import converted

from tritonseq.models.matmul import check_int8

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from generate.workloads import Workload
    from torch import Tensor

FORCED_STEPS = 6
NOT_IN_CTRANSLATE2 = ("prophetnet",)

_translator: Any = None


@dataclass(frozen=True)
class Job:
    """What every engine is given."""

    folder: Path
    """Holds the checkpoint."""
    workload: Workload
    inputs: Tensor
    """`[B, S]` prompts, or sources of an encoder."""

    @property
    def device(self) -> torch.device:
        return self.inputs.device

    @property
    def options(self) -> dict[str, Any]:
        """The options of `generate`, by the names that tritonseq and transformers share.

        UniLM cannot be without an end token, which is banned up to the last step instead.
        """
        steps = self.workload.new_tokens
        lengths = {"max_new_tokens": steps}
        if self.workload.model == "unilm":
            lengths["min_new_tokens"] = steps
        return {"do_sample": False} | lengths | self.workload.options

    def forced_tokens(self) -> Tensor:
        """Random words `[B * K, T]` of the inputs for a few steps, different in each row."""
        shape = (self.workload.batch * self.workload.beams, FORCED_STEPS)
        words = self.inputs[self.inputs >= self.workload.first_word]
        picked = torch.randint(len(words), shape, generator=torch.Generator().manual_seed(0))
        return words[picked.to(self.device)]


class MeasuredEngine(Protocol):
    """A loaded model, ready to run its job again and again."""

    def generate(self) -> Tensor:
        """The new tokens `[B, T]` of the best hypotheses."""
        ...


class Tritonseq:
    """This package, from the checkpoint's folder."""

    def __init__(self, job: Job, dtype: str | None = None) -> None:
        """`dtype`: other than the workload's."""
        import tritonseq

        self.job = job
        self.model = tritonseq.load(
            job.folder, dtype=dtype or job.workload.dtype, device=job.device
        )

    def _run(self, **options: Any) -> Any:
        inputs = self.job.inputs
        return self.model.generate(inputs, attention_mask=torch.ones_like(inputs), **options)

    def generate(self) -> Tensor:
        return continuation(self._run(**self.job.options), self.job.workload)

    def forced_logits(self) -> Tensor:
        """The logits `[T, B * K, V]` of a few steps along given tokens."""
        # UniLM's own rules have no sampling.
        return forced_logits(self._run, self.job, search="transformers")


class Transformers:
    """transformers with its own choice of attention, in the same dtype."""

    def __init__(self, job: Job) -> None:
        kind = "Seq2SeqLM" if job.workload.is_encoder_decoder else "CausalLM"
        loader: Any = getattr(quiet_transformers(), f"AutoModelFor{kind}")
        self.job = job
        self.model = loader.from_pretrained(job.folder, dtype=job.workload.dtype).to(job.device)

    def _run(self, **options: Any) -> Any:
        inputs = self.job.inputs
        return self.model.generate(
            inputs, attention_mask=torch.ones_like(inputs), pad_token_id=0, **options
        )

    def generate(self) -> Tensor:
        return continuation(self._run(**self.job.options), self.job.workload)

    def forced_logits(self) -> Tensor:
        """The logits `[T, B * K, V]` of a few steps along given tokens."""
        return forced_logits(self._run, self.job)


class Reprojection:
    """UniLM by upstream's method, which projects keys and values of all positions every step."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.network = reprojection.ReprojectingNetwork(job.folder, job.workload.dtype, job.device)

    @torch.inference_mode()
    def generate(self) -> Tensor:
        workload = self.job.workload
        decoder = reprojection.ReprojectingDecoder(self.network, self.job.inputs)
        return reprojection.search(decoder, workload.beams, workload.new_tokens)

    @torch.inference_mode()
    def forced_logits(self) -> Tensor:
        """The logits `[T, B * K, V]` of a few steps along given tokens."""
        workload = self.job.workload
        decoder = reprojection.ReprojectingDecoder(self.network, self.job.inputs)
        samples = torch.arange(workload.batch, device=self.job.device)
        rows = samples.repeat_interleave(workload.beams)
        logits = [decoder.start()[rows]]
        decoder.reorder(rows)
        # What follows the last token is not asked for.
        logits += [decoder.read(token) for token in self.job.forced_tokens()[:, :-1].split(1, 1)]
        return torch.stack(logits).float()


class CTranslate2:
    """CTranslate2 on a converted copy, with as many threads as torch has; tokens are `str(id)`.

    It runs in a process of its own unless `apart` is False: its threads spin for a while after
    each call, and would take the cores from the engine that is timed next.
    """

    def __init__(self, job: Job, compute_type: str = "float32", *, apart: bool = True) -> None:
        self.job = job
        self.sources = [[str(token) for token in row] for row in job.inputs.tolist()]
        settings = (str(converted(job.folder)), compute_type, torch.get_num_threads())
        self.process = None
        if apart:
            spawn = multiprocessing.get_context("spawn")
            self.process = ProcessPoolExecutor(1, spawn, open_translator, settings)
        else:
            open_translator(*settings)

    def generate(self) -> Tensor:
        workload = self.job.workload
        task = (self.sources, workload.beams, workload.new_tokens)
        if self.process is None:
            tokens = translate(*task)
        else:
            tokens = self.process.submit(translate, *task).result()
        if any(len(row) != workload.new_tokens for row in tokens):
            raise SystemExit(f"CTranslate2 made {[len(row) for row in tokens]} tokens; no figures")
        return torch.tensor(tokens)


def open_translator(folder: str, compute_type: str, threads: int) -> None:
    """Load the model, in whichever process this is."""
    import ctranslate2

    global _translator
    _translator = ctranslate2.Translator(
        folder,
        device="cpu",
        compute_type=compute_type,
        inter_threads=1,
        intra_threads=threads,
    )


def translate(sources: list[list[str]], beams: int, new_tokens: int) -> list[list[int]]:
    """Exactly `new_tokens` tokens of the best hypothesis for each source."""
    results = _translator.translate_batch(
        sources,
        beam_size=beams,
        # Its end token, which it insists on having, is banned up to the last step.
        min_decoding_length=new_tokens,
        max_decoding_length=new_tokens,
        max_input_length=0,
    )
    return [[int(token) for token in result.hypotheses[0]] for result in results]


class Force:
    """A logits processor that leaves every row the next of its given tokens."""

    def __init__(self, tokens: Tensor) -> None:
        """`tokens`: `[R, T]`."""
        self.tokens = iter(tokens.unbind(1))

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, -torch.inf)
        return forced.scatter_(1, next(self.tokens)[:, None], 0.0)


def forced_logits(run: Callable[..., Any], job: Job, **options: Any) -> Tensor:
    """Float32 logits `[T, R, V]` by `generate`, whose rows follow different random tokens.

    Several rows per sample read one source or prompt, as beams do.
    """
    output = run(
        do_sample=True,
        num_return_sequences=job.workload.beams,
        max_new_tokens=FORCED_STEPS,
        logits_processor=[Force(job.forced_tokens())],
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return torch.stack(output.logits).float()


def continuation(rows: Tensor, workload: Workload) -> Tensor:
    """What was generated; refuses rows that are shorter or longer than asked for."""
    made = rows.shape[1] - workload.given
    if made != workload.new_tokens:
        raise SystemExit(f"{made} new tokens instead of {workload.new_tokens}; no figures")
    return rows[:, workload.given :]


ENGINES: dict[str, Callable[[Job], MeasuredEngine]] = {
    "tritonseq": Tritonseq,
    "tritonseq int8": functools.partial(Tritonseq, dtype="int8"),
    "transformers": Transformers,
    "reprojection": Reprojection,
    "ctranslate2": CTranslate2,
    "ctranslate2 int8": functools.partial(CTranslate2, compute_type="int8"),
}


def able(workload: Workload, device: torch.device, *, int8: bool) -> list[str]:
    """The names of the engines that can do the work, and says which cannot, and why.

    Ours comes first, and second the one whose output it must give.
    """
    names = ["tritonseq", "reprojection" if workload.model == "unilm" else "transformers"]
    if workload.dtype != torch.float32:
        return names
    if int8:
        if reason := absence_of_int8(device):
            print(f"tritonseq int8 is left out: {reason}", flush=True)
        else:
            names.append("tritonseq int8")
    if not workload.is_encoder_decoder or workload.model in NOT_IN_CTRANSLATE2:
        return names
    if reason := absence(device):
        print(f"ctranslate2 is left out: {reason}", flush=True)
        return names
    return [*names, "ctranslate2", *(["ctranslate2 int8"] if int8 else [])]


def absence_of_int8(device: torch.device) -> str | None:
    """Why there is no int8 of ours here; None if there is."""
    if device.type != "cpu":
        return "it is for the CPU"
    try:
        check_int8()
    except ValueError as error:
        return str(error)
    return None


def absence(device: torch.device) -> str | None:
    """Why CTranslate2 does not take part; None if it does."""
    if device.type != "cpu":
        return "it is compared on the CPU only"
    if importlib.util.find_spec("ctranslate2") is None:
        return "not installed; the bench extra brings it"
    return None
