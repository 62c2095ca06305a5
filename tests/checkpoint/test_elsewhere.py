"""What is not supported is told by config.json alone, with the better place to go."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

import tritonseq
from tritonseq.checkpoint.elsewhere import OTHER_FAMILIES, check_kind
from tritonseq.checkpoint.unilm_family import MODEL_TYPES
from tritonseq.models import MODELS

if TYPE_CHECKING:
    from pathlib import Path

KINDS = [kind for family in OTHER_FAMILIES for kind in family.model_types.split()]


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        *(
            ("llama", "vLLM"),
            ("qwen3", "llama.cpp"),
            ("led", "transformers"),
            ("t5gemma", "CTranslate2"),
        ),
        *(("whisper", "faster-whisper"), ("switch_transformers", "transformers")),
        *(("vision-encoder-decoder", "transformers"), ("encoder-decoder", "transformers")),
    ],
)
def test_a_folder_without_weights_is_refused_for_its_family(
    tmp_path: Path, kind: str, place: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ValueError, match=f"model_type '{kind}' is not supported.*: .*{place}"):
        tritonseq.load(tmp_path)


def test_unknown_families_are_told_what_there_is_before_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt5"}))
    with pytest.raises(ValueError, match="'gpt5' is not supported; supported: bart, "):
        tritonseq.load(tmp_path)
    with pytest.raises(ValueError, match="'llama' is not supported"):
        tritonseq.load(tmp_path, model_type="llama")
    with pytest.raises(ValueError, match="'led' is not supported"):
        tritonseq.load(tmp_path, config={"model_type": "led"})
    with pytest.raises(ValueError, match="no weights"):
        tritonseq.load(tmp_path, model_type="bart")


def test_live_models_are_refused_likewise() -> None:
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    config = transformers.LlamaConfig(**sizes, **heads)
    with pytest.raises(ValueError, match=r"decoder-only .* vLLM"):
        tritonseq.from_transformers(transformers.LlamaForCausalLM(config))


def test_no_family_is_here_and_elsewhere() -> None:
    assert not {*MODELS, *MODEL_TYPES} & set(KINDS)
    assert len(KINDS) == len(set(KINDS))
    for kind in (*MODELS, *MODEL_TYPES):
        check_kind({"model_type": kind})


def test_most_names_are_those_of_transformers() -> None:
    """Others are of code that comes with checkpoints."""
    strange = set(KINDS) - set(CONFIG_MAPPING_NAMES)
    assert len(strange) < 12, strange
