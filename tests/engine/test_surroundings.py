"""What a user sets for all of torch neither breaks a request nor changes what it finds."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import seq2seq
import torch

import tritonseq
from tritonseq.demo.run import EMBEDDED
from tritonseq.kernels import private_torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = ("gpt2-words", "bart-numbers")
IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])


@contextlib.contextmanager
def attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute that has another value meanwhile."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def called(function: Callable[[Any], object], inside: Any, after: Any) -> Iterator[None]:
    function(inside)
    try:
        yield
    finally:
        function(after)


B = torch.backends
SETTINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "fp32-precision": lambda: attribute(B, "fp32_precision", "tf32"),
    "of-products": lambda: attribute(B.cuda.matmul, "fp32_precision", "tf32"),
    "of-products-ieee": lambda: attribute(B.cuda.matmul, "fp32_precision", "ieee"),
    "of-mkldnn": lambda: attribute(B.mkldnn, "fp32_precision", "ieee"),
    "of-mkldnn-products": lambda: attribute(B.mkldnn.matmul, "fp32_precision", "ieee"),
    "of-cudnn": lambda: attribute(B.cudnn, "fp32_precision", "tf32"),
    "medium": lambda: called(torch.set_float32_matmul_precision, "medium", "highest"),
    "high": lambda: called(torch.set_float32_matmul_precision, "high", "highest"),
    "tf32": lambda: attribute(B.cuda.matmul, "allow_tf32", True),
    "no-mkldnn": lambda: B.mkldnn.flags(enabled=False),
    "deterministic": lambda: called(torch.use_deterministic_algorithms, True, False),
    "default-float64": lambda: called(torch.set_default_dtype, torch.float64, torch.float32),
    "default-bfloat16": lambda: called(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default-device": lambda: called(torch.set_default_device, "meta", None),
    "with-device": lambda: torch.device("meta"),
    "grad": torch.enable_grad,
    "no-grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast-float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "anomaly": torch.autograd.detect_anomaly,
    "denormals": lambda: called(torch.set_flush_denormal, True, False),
}


@cache
def load(name: str) -> tritonseq.Model:
    return tritonseq.load(EMBEDDED / name, device="cpu")


def found(name: str) -> list[Any]:
    """What every way to ask finds."""
    model = load(name)
    torch.manual_seed(1)
    return [
        model.generate(IDS, max_new_tokens=5).tolist(),
        model.generate(IDS.tolist(), max_new_tokens=5, num_beams=3).tolist(),
        model.generate([[5, 6], [7, 8, 9]], max_new_tokens=5, do_sample=True).tolist(),
        list(model.stream([[5, 6]], max_new_tokens=5)),
        [(at, ids.tolist()) for at, ids in model.generate_each([[5], [6, 7]], max_new_tokens=5)],
        model.generate_text(["three plus four", "may first"]),
        [result.text for result in tritonseq.pipeline(model, ["three plus four", "may first"])],
    ]


@pytest.fixture(scope="module")
def usual() -> dict[str, list[Any]]:
    return {name: found(name) for name in NAMES}


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_setting_changes_what_is_found(usual: dict[str, list[Any]], setting: str) -> None:
    with SETTINGS[setting]():
        for name in NAMES:
            assert found(name) == usual[name]


@pytest.mark.parametrize("setting", ["default-float64", "default-bfloat16", "default-device"])
def test_no_setting_changes_what_is_made_once(setting: str, tmp_path: Path) -> None:
    """Weights and tables of sines, whether int8 is exact, and what stop strings are to tokens."""

    def made() -> list[Any]:
        private_torch.int8_row_max.cache_clear()
        model = tritonseq.load(EMBEDDED / "bart-numbers", device="cpu")
        networks = [tritonseq.load(tmp_path / family, device="cpu") for family in families]
        texts = model.generate_text(["three plus four"], stop_strings=["1", "20"])
        ids = [network.generate([[5, 6], [7]], max_new_tokens=3).tolist() for network in networks]
        return [private_torch.int8_row_max(), texts, ids]

    families = ("marian", "m2m_100", "fsmt")
    for family in families:
        seq2seq.hf_model(family).save_pretrained(tmp_path / family)
    usual = made()
    with SETTINGS[setting]():
        assert made() == usual


def test_the_number_of_threads_may_change_between_calls() -> None:
    model = load("gpt2-words")
    usual = model.generate(IDS, max_new_tokens=3)
    with called(torch.set_num_threads, 2, 1):
        assert torch.equal(model.generate(IDS, max_new_tokens=3), usual)
    assert torch.equal(model.generate(IDS, max_new_tokens=3), usual)


def test_settings_are_those_of_the_user_between_two_results() -> None:
    model = load("gpt2-words")
    with torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in model.stream([[5, 6]], max_new_tokens=3):
            assert torch.zeros(1).is_meta
            assert torch.is_autocast_enabled("cpu")
        for _ in model.generate_each([[5, 6]], max_new_tokens=3):
            assert torch.zeros(1).is_meta
            assert torch.is_autocast_enabled("cpu")
        assert torch.zeros(1).is_meta


def test_a_model_of_real_width_keeps_its_dtype_under_autocast() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=1, vocab_size=999, eos_token_id=None, bos_token_id=0)
    model = tritonseq.from_transformers(GPT2LMHeadModel(config))
    ids = torch.randint(0, 999, (2, 9))
    options: dict[str, Any] = {
        "max_new_tokens": 4, "return_dict_in_generate": True, "output_scores": True,
    }  # fmt: skip
    plain = model.generate(ids, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = model.generate(ids, **options)
    assert all(map(torch.equal, plain.scores, cast.scores))
