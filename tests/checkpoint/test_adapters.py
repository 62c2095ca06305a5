"""What changes a model beside its plain weights is refused with the remedy, wherever it shows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import nn

import tritonseq
from tritonseq.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LORA = {"peft_type": "LORA", "base_model_name_or_path": "gpt2", "r": 8}


def whole(folder: Path, **config: Any) -> Path:
    model = tiny.hf_gpt2()
    model.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def with_tensor(folder: Path, name: str) -> Path:
    whole(folder)
    state = {k: v.clone() for k, v in tiny.hf_gpt2().state_dict().items() if k != "lm_head.weight"}
    save_file({**state, name: torch.ones(2, 2)}, folder / "model.safetensors")
    return folder


def test_an_adapter_beside_whole_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = whole(tmp_path)
    (folder / "adapter_config.json").write_text(json.dumps(LORA))
    message = r"holds an adapter \(LORA\) for gpt2 beside a whole model.*merge .* first"
    with pytest.raises(ValueError, match=message):
        tritonseq.load(folder)
    with pytest.raises(ValueError, match=message):
        tritonseq.load(folder / "model.safetensors")
    capsys.readouterr()
    assert main(["generate", str(folder), "--prompt", "5 6"]) != 0
    said = capsys.readouterr().err
    assert "merge_and_unload" in said and said.count("\n") == 1
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"remove adapter_config\.json"):
        tritonseq.load(folder)


def test_an_adapter_alone(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA))
    save_file({"base_model.model.x.lora_A.weight": torch.ones(1)}, tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"\(LORA\) for gpt2 and no whole checkpoint: merge the"):
        tritonseq.load(tmp_path)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING"])
def test_soft_prompts_cannot_be_merged(tmp_path: Path, kind: str) -> None:
    folder = whole(tmp_path)
    (folder / "adapter_config.json").write_text(json.dumps({**LORA, "peft_type": kind}))
    with pytest.raises(ValueError, match=rf"{kind}.*cannot be merged and is not supported"):
        tritonseq.load(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("transformer.h.0.attn.c_attn.base_layer.weight", "part of an adapter.*merge it first"),
        ("transformer.h.0.attn.c_attn.lora_A.default.weight", "merge it first"),
        ("base_model.model.transformer.wte.weight", "merge it first"),
        ("transformer.h.0.adapters.task.adapter_down.0.weight", "merge it first"),
        ("prompt_encoder.default.embedding.weight", "merge it first"),
        ("transformer.h.0.attn.c_attn.ia3_l.default", "merge it first"),
        ("transformer.h.0.attn.c_attn.qweight", "part of a quantised weight.*dequantize"),
        ("transformer.h.0.mlp.c_fc.weight.quant_state.bitsandbytes__nf4", "quantised weight"),
        ("transformer.h.0.mlp.c_fc.SCB", "quantised weight"),
    ],
)
def test_tensors_of_adapters_and_of_quantised_weights(
    tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tritonseq.load(with_tensor(tmp_path, name))


@pytest.mark.parametrize(
    "stated",
    [
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"compression_config": {"quant_method": "compressed-tensors"}},
    ],
)
def test_quantised_configurations(tmp_path: Path, stated: dict[str, Any]) -> None:
    method = next(iter(stated.values()))["quant_method"]
    with pytest.raises(ValueError, match=rf"quantised checkpoints.*{method}.*dequantize\(\)"):
        tritonseq.load(whole(tmp_path, **stated))


class PeftModelForCausalLM(nn.Module):
    """As peft wraps a model: under other names, with its configuration within reach."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = model
        self.peft_config = {"default": LORA}

    @property
    def config(self) -> Any:
        inner: Any = self.base_model.model
        return inner.config


class LoraLinear(nn.Module):
    """As peft puts an adapter into a model."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(32, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 96, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base_layer(x)
        return out + self.lora_B["default"](self.lora_A["default"](x))


def injected(model: Any) -> Any:
    model.transformer.h[1].attn.c_attn = LoraLinear(model.transformer.h[1].attn.c_attn)
    return model


@pytest.mark.parametrize(
    "adapted", [PeftModelForCausalLM, injected, lambda m: torch.compile(PeftModelForCausalLM(m))]
)
def test_live_models_with_an_adapter(adapted: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=r"merge it first \(merge_and_unload"):
        tritonseq.from_transformers(adapted(tiny.hf_gpt2()))
