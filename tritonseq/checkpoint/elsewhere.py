"""Elsewhere: families of models that are not supported here, and what runs them better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.models import MODELS, model_class

from .files import find_config, read_json
from .unilm_family import MODEL_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class OtherFamily(NamedTuple):
    """Types of models that are alike."""

    name: str
    model_types: str
    """Between spaces."""
    reason: str
    """Why they are not here."""
    place: str
    """Where to go."""


OTHER_FAMILIES = (
    OtherFamily(
        "decoder-only language models",
        "apertus aya bitnet bloom codegen cohere cohere2 ctrl dbrx deepseek_v2 deepseek_v3 "
        "ernie4_5 exaone4 falcon falcon_h1 falcon_mamba gemma gemma2 gemma3 gemma3_text gemma3n "
        "glm glm4 glm4_moe gpt_bigcode gpt_neo gpt_neox gpt_oss gptj granite granitemoe helium "
        "internlm2 jamba lfm2 llama llama4 llama4_text mamba mamba2 minimax ministral mistral "
        "mistral3 mixtral mpt nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe "
        "qwen qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next rwkv smollm3 stablelm starcoder2 xglm "
        "xlnet zamba2",
        "of models without an encoder GPT-2 alone is here",
        "vLLM on a GPU, or llama.cpp on a CPU",
    ),
    OtherFamily(
        "language models that see and hear",
        "aya_vision blip blip-2 chameleon gemma4 git glm4v idefics2 idefics3 instructblip internvl "
        "kosmos-2 llava llava_next llava_onevision mllama paligemma phi4_multimodal pixtral "
        "qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_vl qwen3_vl smolvlm",
        "sources are texts",
        "vLLM",
    ),
    OtherFamily(
        "long sources by sparse attention: LED, LongT5, Pegasus-X, BigBird-Pegasus",
        "led longt5 pegasus_x bigbird_pegasus",
        "their encoders look at windows and blocks of the source, and no kernel for that is here",
        "transformers; what fits into the positions of a BART, T5 or Pegasus is read here",
    ),
    OtherFamily(
        "T5Gemma",
        "t5gemma t5gemma2",
        "its blocks are those of Gemma",
        "CTranslate2, which converts T5Gemma, else transformers",
    ),
    OtherFamily(
        "mixtures of experts with an encoder: SwitchTransformers, NLLB-MoE",
        "switch_transformers nllb-moe nllb_moe",
        "experts are chosen for every token, and no kernel for that is here",
        "transformers; of NLLB, the dense checkpoints up to 3.3B",
    ),
    OtherFamily(
        "speech to text: Whisper, Speech2Text, Moonshine",
        "whisper speech_to_text speech_to_text_2 moonshine speech-encoder-decoder wav2vec2 "
        "kyutai_speech_to_text",
        "sources are texts, not sounds",
        "faster-whisper for Whisper, else transformers",
    ),
    OtherFamily(
        "speech and text: SeamlessM4T, SpeechT5, Bark, MusicGen",
        "seamless_m4t seamless_m4t_v2 speecht5 bark musicgen",
        "sources and targets are texts, not sounds",
        "transformers",
    ),
    OtherFamily(
        "pictures to text: TrOCR, Donut, Nougat, Pix2Struct, Florence-2",
        "vision-encoder-decoder trocr donut-swin pix2struct florence2 udop vipllava",
        "sources are texts, not pictures",
        "transformers",
    ),
    OtherFamily(
        "pairs of a BERT and a BERT, or a BERT and a GPT-2: EncoderDecoderModel",
        "encoder-decoder bert-generation",
        "two networks of different families are one model only in transformers' own class",
        "transformers",
    ),
    OtherFamily(
        "encoders without a decoder",
        "albert camembert canine convbert data2vec-text deberta deberta-v2 distilbert ernie "
        "flaubert fnet funnel layoutlm layoutlmv3 longformer mobilebert modernbert mpnet "
        "nomic_bert roberta-prelayernorm roformer squeezebert xlm xlm-roberta-xl xmod",
        "they write nothing",
        "transformers, or sentence-transformers for embeddings",
    ),
)

_FAMILY_OF = {kind: family for family in OTHER_FAMILIES for kind in family.model_types.split()}


def check_kind(config: Mapping[str, Any]) -> None:
    """Raise ValueError for the `model_type` of a model that is not supported, whatever its weights.

    What names none, or one that a UniLM was made from, the weights tell more about.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind in MODELS or kind in MODEL_TYPES:
        return
    family = _FAMILY_OF.get(kind)
    if family is None:
        model_class(kind)  # says what there is
        return
    raise ValueError(
        f"model_type {kind!r} is not supported, of {family.name}: {family.reason}. "
        f"The better place to go: {family.place}"
    )


def check_folder(folder: Path, model_type: str | None, overrides: Mapping[str, Any] | None) -> None:
    """`check_kind` of what a folder's configuration and the caller say, who counts more."""
    path = find_config(folder)
    stated = read_json(path) if path else {}
    named = {} if model_type is None else {"model_type": model_type}
    check_kind({**stated, **(overrides or {}), **named})
