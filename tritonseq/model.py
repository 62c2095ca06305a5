"""The façade: `load`, `from_transformers` and the `Model` that they return."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

from .checkpoint import from_transformers_model, load_checkpoint
from .config import GenerationConfig, as_generation_config
from .generate import Callables, Generation
from .hub import snapshot
from .prompts import read_prompts
from .text import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from .generate import Streamer
    from .outputs import GenerateOutput
    from .prompts import Prompts
    from .stopping import Criterion

    Ids = Tensor | Sequence[Sequence[int]] | None
    LogitsProcessor = Callable[[Tensor, Tensor], Tensor]


def load(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Model:
    """Load a checkpoint from a local folder or from the Hugging Face Hub.

    Args:
        name_or_path: a folder with config.json and weights, or a Hub id such as "gpt2".
        device: "auto" takes the first GPU if there is one, else the CPU.
        dtype: "auto" takes what config.json states, else float32; float16 becomes float32 on
            the CPU.
        revision: branch, tag or commit on the Hub.
        cache_dir: where downloads are kept; huggingface_hub's own cache by default.
        token: for private repositories; by default the one that `hf auth login` stored.
        local_files_only: never touch the network.

    Raises:
        ValueError: with what is wrong and what to do, if the checkpoint is not there or not
            readable.
        ConnectionError: if the Hub cannot be reached and its cache does not have everything.
    """
    folder = snapshot(
        name_or_path,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )
    decoder, generation = load_checkpoint(folder, device=device, dtype=dtype)
    return Model(decoder, GenerationConfig.from_dict(generation, strict=False), folder)


def from_transformers(model: Any) -> Model:
    """Take over a live transformers model; weights are shared wherever that is possible.

    The model keeps working, and so must stay as it is: a weight that is changed in place changes
    in both. Raises ValueError for an architecture that tritonseq does not implement.
    """
    decoder, generation = from_transformers_model(model)
    return Model(decoder, GenerationConfig.from_dict(generation, strict=False), None)


class Model:
    """A loaded network with its generation defaults and, where there is one, its tokenizer."""

    def __init__(
        self, decoder: Any, generation_config: GenerationConfig, folder: Path | None
    ) -> None:
        self.decoder = decoder
        """The network: an `nn.Module` with `prefill` and `step`."""
        self.generation_config = generation_config
        """The defaults of `generate`, as the checkpoint gives them."""
        self._folder = folder

    def __repr__(self) -> str:
        return f"Model({type(self.decoder).__name__}, {self.dtype}, {self.device})"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        weight: Tensor = next(self.decoder.parameters())
        return weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        weight: Tensor = next(self.decoder.parameters())
        return weight.dtype

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; needs the `text` extra."""
        if self._folder is None:
            raise ValueError(
                "a model taken over from transformers has no tokenizer here: "
                "tokenize with the one you have and call generate with its ids"
            )
        return Tokenizer.from_folder(self._folder)

    @overload
    def generate(
        self,
        input_ids: Ids = None,
        attention_mask: Any = None,
        *,
        return_dict_in_generate: Literal[True],
        **options: Any,
    ) -> GenerateOutput: ...

    @overload
    def generate(
        self, input_ids: Ids = None, attention_mask: Any = None, **options: Any
    ) -> Tensor: ...

    def generate(
        self,
        input_ids: Ids = None,
        attention_mask: Tensor | Sequence[Sequence[int]] | None = None,
        *,
        generation_config: Any = None,
        logits_processor: Sequence[LogitsProcessor] | LogitsProcessor = (),
        stopping_criteria: Sequence[Criterion] | Criterion = (),
        prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None,
        streamer: Streamer | None = None,
        return_dict_in_generate: bool | None = None,
        **options: Any,
    ) -> Tensor | GenerateOutput:
        """Continue prompts by greedy search, sampling, beam search or any mixture of them.

        Args:
            input_ids: `[B, P]` integer tensor of prompts padded on the left, or lists of ids of
                any lengths. None starts from the model's bos token.
            attention_mask: `[B, P]`, 0 on padding; needed if the pad token is also an end token.
            generation_config: a GenerationConfig (ours or transformers') in place of the model's
                defaults; what it leaves open is taken from them.
            logits_processor: callables `(ids [R, L], scores [R, V]) -> scores`, applied after
                the built-in ones; R counts beams, samples in order. Diverse groups of beams are
                processed one after the other.
            stopping_criteria: callables `(ids [N, L], scores) -> bool or bool tensor [N]`; with
                beams they judge candidates, more than there are beams. `scores` is None unless
                `output_scores` asks for them.
            prefix_allowed_tokens_fn: `(sample, ids [L]) -> allowed next tokens`. As in
                transformers, `sample` counts rows when sampling several sequences per prompt.
            streamer: gets the prompt and every token as it is chosen; not with beams.
            options: transformers' generation parameters: max_new_tokens, num_beams, do_sample,
                no_repeat_ngram_size and so on; `hf_exact=True` also reproduces its quirks.

        Returns:
            `[B * num_return_sequences, L]` int64 on the device of `input_ids`, prompts included;
            with `return_dict_in_generate=True` a GenerateOutput.

        Raises:
            ValueError: for unknown or impossible options and malformed prompts, before any work.
        """
        if return_dict_in_generate is not None:
            options["return_dict_in_generate"] = return_dict_in_generate
        config = self._configure(generation_config, options)
        if streamer is not None and config.num_beams > 1:
            raise ValueError("streamer works with num_beams=1 only: beams rewrite their past")
        if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise ValueError(f"streamer must have put and end, which {type(streamer)} has not")
        prompts = self._read(input_ids, attention_mask, config)
        callables = _callables(logits_processor, stopping_criteria, prefix_allowed_tokens_fn)
        generation = Generation(self.decoder, prompts, config, callables)
        if streamer is None:
            for _ in generation:
                pass
        else:
            streamer.put(prompts.ids.cpu())
            for tokens in generation:
                streamer.put(tokens.flatten().cpu())
            streamer.end()
        output = generation.output()
        home = getattr(input_ids, "device", None)
        output.sequences = output.sequences.to(home or self.device)
        if not config.return_dict_in_generate:
            return output.sequences
        if not config.output_scores:
            output.sequences_scores = None
        return output

    def stream(
        self,
        input_ids: Ids = None,
        attention_mask: Tensor | Sequence[Sequence[int]] | None = None,
        *,
        generation_config: Any = None,
        logits_processor: Sequence[LogitsProcessor] | LogitsProcessor = (),
        stopping_criteria: Sequence[Criterion] | Criterion = (),
        prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None,
        **options: Any,
    ) -> Iterator[int]:
        """Continue one prompt and yield each token id as soon as it is chosen.

        Greedy search or sampling; arguments and options are those of `generate`. Faults in them
        are raised at the call, not at the first token.
        """
        config = self._configure(generation_config, options)
        prompts = self._read(input_ids, attention_mask, config)
        if config.num_beams > 1 or config.num_return_sequences > 1 or prompts.ids.shape[0] > 1:
            raise ValueError(
                "stream yields the tokens of one hypothesis: pass one prompt, "
                "num_beams=1 and num_return_sequences=1"
            )
        callables = _callables(logits_processor, stopping_criteria, prefix_allowed_tokens_fn)
        generation = Generation(self.decoder, prompts, config, callables)
        return (int(tokens) for tokens in generation)

    def generate_text(self, texts: Sequence[str], **options: Any) -> list[str]:
        """Continue texts: tokenize, pad, generate, and decode what was generated.

        Takes the options of `generate`; returns `len(texts) * num_return_sequences` strings
        without their prompts. Needs the `text` extra and a checkpoint with a tokenizer.
        """
        config = self._configure(options.pop("generation_config", None), {})
        for name in ("input_ids", "attention_mask", "return_dict_in_generate"):
            if options.get(name):
                raise ValueError(
                    f"generate_text takes texts and returns texts: {name} is for generate"
                )
        ids, mask = self.tokenizer.encode(texts, pad_id=config.fill_token_id or 0)
        options["return_dict_in_generate"] = False
        sequences = self.generate(ids, mask, generation_config=config, **options)
        return self.tokenizer.decode(sequences[:, ids.shape[1] :])

    def _configure(self, generation_config: Any, options: dict[str, Any]) -> GenerationConfig:
        config = self.generation_config
        if generation_config is not None:
            config = as_generation_config(generation_config, defaults=config)
        config = config.merged(**options)
        config.check_vocabulary(self.decoder.vocab_size)
        return config

    def _read(self, input_ids: Ids, attention_mask: Any, config: GenerationConfig) -> Prompts:
        return read_prompts(
            input_ids,
            attention_mask,
            vocab_size=self.decoder.vocab_size,
            pad_token_id=config.pad_token_id,
            eos_token_ids=config.eos_token_ids,
            bos_token_id=config.bos_token_id,
            device=self.device,
        )


def _callables(processors: Any, criteria: Any, prefix_allowed_tokens_fn: Any) -> Callables:
    """Checked, so that nothing runs before a fault is found."""
    if prefix_allowed_tokens_fn is not None and not callable(prefix_allowed_tokens_fn):
        raise ValueError(
            f"prefix_allowed_tokens_fn must be callable, not {prefix_allowed_tokens_fn!r}"
        )
    return Callables(
        _listed("logits_processor", processors),
        _listed("stopping_criteria", criteria),
        prefix_allowed_tokens_fn,
    )


def _listed(name: str, callables: Any) -> list[Any]:
    """One callable or several, as a list; transformers' lists of processors are lists too."""
    if callables is None:
        return []
    listed = list(callables) if isinstance(callables, (list, tuple)) else [callables]
    for item in listed:
        if not callable(item):
            raise ValueError(f"{name} must hold callables, not {item!r}")
    return listed
