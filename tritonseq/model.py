"""The façade: `load`, `from_transformers` and the `Model` that they return."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

from .checkpoint import from_transformers_model, load_checkpoint
from .config import GenerationConfig, as_generation_config
from .generate import Callables, Generation
from .hub import snapshot
from .prompts import read_decoder_prompts, read_prompts, read_sources
from .text import Tokenizer
from .trie import Trie

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from .checkpoint import Checkpoint
    from .generate import Streamer
    from .outputs import GenerateOutput
    from .prompts import Prompts
    from .stopping import Criterion

    Ids = Tensor | Sequence[Sequence[int]] | None
    AllowedTokens = Callable[[int, Tensor], Sequence[int]] | Trie
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
            the CPU, and T5 gets bfloat16 on GPUs that have it.
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
    return _model(load_checkpoint(folder, device=device, dtype=dtype), folder)


def from_transformers(model: Any) -> Model:
    """Take over a live transformers model; weights are shared wherever that is possible.

    The model keeps working, and so must stay as it is: a weight that is changed in place may
    change in both. Most weights of encoder-decoder models are copies, because they are joined
    into larger products. Raises ValueError for an architecture that tritonseq does not implement.
    """
    return _model(from_transformers_model(model), None)


def _model(checkpoint: Checkpoint, folder: Path | None) -> Model:
    generation_config = GenerationConfig.from_dict(checkpoint.generation, strict=False)
    return Model(checkpoint.decoder, generation_config, folder, checkpoint.tasks)


class Model:
    """A loaded network with its generation defaults and, where there is one, its tokenizer."""

    def __init__(
        self,
        decoder: Any,
        generation_config: GenerationConfig,
        folder: Path | None,
        tasks: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.decoder = decoder
        """The network: an `nn.Module` with `prefill` and `step`."""
        self.generation_config = generation_config
        """The defaults of `generate`, as the checkpoint gives them."""
        self.tasks = dict(tasks or {})
        """What the checkpoint recommends by task: generation options, and a prefix for texts."""
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

    @property
    def is_encoder_decoder(self) -> bool:
        """Does an encoder read the input, or is the input continued?"""
        answer: bool = self.decoder.is_encoder_decoder
        return answer

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
        decoder_input_ids: Ids = None,
        generation_config: Any = None,
        task: str | None = None,
        logits_processor: Sequence[LogitsProcessor] | LogitsProcessor = (),
        stopping_criteria: Sequence[Criterion] | Criterion = (),
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        streamer: Streamer | None = None,
        return_dict_in_generate: bool | None = None,
        **options: Any,
    ) -> Tensor | GenerateOutput:
        """Answer sources, or continue prompts: by greedy search, sampling or beam search.

        Args:
            input_ids: integers, or lists of ids of any lengths. With an encoder: sources
                `[B, S]`, padded on either side. Without: prompts `[B, P]` to continue, padded on
                the left; None starts from the model's bos token.
            attention_mask: the shape of `input_ids`, 0 on padding. Without one, pad tokens at the
                edges of sources are padding (with `hf_exact=True` they are text), and so are
                those before prompts, if the pad token is no end token.
            decoder_input_ids: `[B, P]`, what targets start with; for models with an encoder. The
                start token is put before it if it is missing in all rows.
            generation_config: a GenerationConfig (ours or transformers') in place of the model's
                defaults; what it leaves open is taken from them.
            task: one of `tasks`, whose options take precedence over the model's defaults.
            logits_processor: callables `(ids [R, L], scores [R, V]) -> scores`, applied after
                the built-in ones; R counts beams, samples in order. Diverse groups of beams are
                processed one after the other.
            stopping_criteria: callables `(ids [N, L], scores) -> bool or bool tensor [N]`; with
                beams they judge candidates, more than there are beams. `scores` is None unless
                `output_scores` asks for them.
            prefix_allowed_tokens_fn: `(sample, ids [L]) -> allowed next tokens`, or a Trie of
                allowed sequences, which is faster. As in transformers, `sample` counts rows when
                sampling several sequences per prompt.
            streamer: gets the prompt and every token as it is chosen; not with beams.
            options: transformers' generation parameters: max_new_tokens, num_beams, do_sample,
                no_repeat_ngram_size and so on; `hf_exact=True` also reproduces its quirks.

        Returns:
            `[B * num_return_sequences, L]` int64 on the device of `input_ids`, prompts of the
            decoder included; with `return_dict_in_generate=True` a GenerateOutput.

        Raises:
            ValueError: for unknown or impossible options and malformed prompts, before any work.
        """
        if return_dict_in_generate is not None:
            options["return_dict_in_generate"] = return_dict_in_generate
        config = self._configure(generation_config, task, options)
        if streamer is not None and config.num_beams > 1:
            raise ValueError("streamer works with num_beams=1 only: beams rewrite their past")
        if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise ValueError(f"streamer must have put and end, which {type(streamer)} has not")
        sources, prompts = self._read(input_ids, attention_mask, decoder_input_ids, config)
        callables = _callables(logits_processor, stopping_criteria, prefix_allowed_tokens_fn)
        generation = Generation(self.decoder, prompts, config, callables, sources)
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
        decoder_input_ids: Ids = None,
        generation_config: Any = None,
        task: str | None = None,
        logits_processor: Sequence[LogitsProcessor] | LogitsProcessor = (),
        stopping_criteria: Sequence[Criterion] | Criterion = (),
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        **options: Any,
    ) -> Iterator[int]:
        """Continue one prompt and yield each token id as soon as it is chosen.

        Greedy search or sampling; arguments and options are those of `generate`. Faults in them
        are raised at the call, not at the first token.
        """
        config = self._configure(generation_config, task, options)
        sources, prompts = self._read(input_ids, attention_mask, decoder_input_ids, config)
        if config.num_beams > 1 or config.num_return_sequences > 1 or prompts.ids.shape[0] > 1:
            raise ValueError(
                "stream yields the tokens of one hypothesis: pass one prompt, "
                "num_beams=1 and num_return_sequences=1"
            )
        callables = _callables(logits_processor, stopping_criteria, prefix_allowed_tokens_fn)
        generation = Generation(self.decoder, prompts, config, callables, sources)
        return (int(tokens) for tokens in generation)

    def generate_text(
        self,
        texts: Iterable[str],
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        prefix: str | None = None,
        truncation: bool = False,
        task: str | None = None,
        **options: Any,
    ) -> list[str]:
        """Answer or continue texts: tokenize, pad, generate, and decode what was generated.

        Args:
            src_lang, tgt_lang: languages of source and target, in the codes of the checkpoint:
                "en_XX" for mBART, "fra" for a Marian model with several targets.
            prefix: put before every text; by default that of the task, if there is one.
            truncation: shorten texts to the positions of the encoder.
            task: one of `tasks`, such as "summarization".
            options: those of `generate`.

        Returns:
            `len(texts) * num_return_sequences` strings, without the prompts that they continue.

        Raises:
            ValueError: for what `generate` refuses, and for texts that cannot be tokenized. Needs
                the `text` extra and a checkpoint with a tokenizer.
        """
        for name in ("input_ids", "attention_mask", "return_dict_in_generate"):
            if options.get(name):
                raise ValueError(
                    f"generate_text takes texts and returns texts: {name} is for generate"
                )
        config = self._configure(options.pop("generation_config", None), task, {})
        if prefix is None:
            prefix = self.task_options(task).get("prefix") if task is not None else None
        ids, mask = self.tokenize(
            texts,
            src_lang=src_lang,
            tgt_lang=tgt_lang,
            prefix=prefix,
            truncation=truncation,
            pad_token_id=config.fill_token_id,
        )
        if tgt_lang is not None:
            options = {**self.tokenizer.target_options(tgt_lang), **options}
        options["return_dict_in_generate"] = False
        sequences = self.generate(ids, mask, generation_config=config, **options)
        return self.tokenizer.decode(sequences[:, self.prompt_length(ids) :])

    def tokenize(
        self,
        texts: Iterable[str],
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        prefix: str | None = None,
        truncation: bool = False,
        pad_token_id: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Ids `[B, S]` and mask `[B, S]` of texts, padded on the side that the model wants.

        Arguments and errors as for `generate_text`; `pad_token_id` is the model's own by default.
        """
        if truncation and not self.is_encoder_decoder:
            raise ValueError("truncation shortens sources; shorten prompts to continue yourself")
        if pad_token_id is None:
            pad_token_id = self.generation_config.fill_token_id
        return self.tokenizer.encode(
            texts,
            pad_id=pad_token_id or 0,
            side="right" if self.is_encoder_decoder else "left",
            src_lang=src_lang,
            tgt_lang=tgt_lang,
            prefix=prefix or "",
            max_length=self.decoder.max_source_positions if truncation else None,
        )

    def task_options(self, task: str) -> dict[str, Any]:
        """What the checkpoint recommends for a task; ValueError if it knows no such task."""
        if task not in self.tasks:
            known = f"it has {', '.join(sorted(self.tasks))}" if self.tasks else "it has none"
            raise ValueError(f"task {task!r} is not among those of the checkpoint: {known}")
        return dict(self.tasks[task])

    def prompt_length(self, input_ids: Tensor) -> int:
        """Columns of the result that repeat `input_ids`: all of them, or none with an encoder."""
        return 0 if self.is_encoder_decoder else input_ids.shape[1]

    def _configure(
        self, generation_config: Any, task: str | None, options: dict[str, Any]
    ) -> GenerationConfig:
        config = self.generation_config
        if task is not None:
            options_of_task = self.task_options(task)
            options_of_task.pop("prefix", None)
            config = config.merged(**options_of_task)
        if generation_config is not None:
            config = as_generation_config(generation_config, defaults=config)
        config = config.merged(**options)
        config.check_vocabulary(self.decoder.vocab_size)
        return config

    def _read(
        self, input_ids: Ids, attention_mask: Any, decoder_input_ids: Ids, config: GenerationConfig
    ) -> tuple[Prompts | None, Prompts]:
        """Sources, if there is an encoder, and what the decoder continues."""
        decoder = self.decoder
        if not decoder.is_encoder_decoder:
            if decoder_input_ids is not None:
                raise ValueError(
                    "decoder_input_ids is for models with an encoder; pass input_ids alone"
                )
            return None, read_prompts(
                input_ids,
                attention_mask,
                vocab_size=decoder.vocab_size,
                pad_token_id=config.pad_token_id,
                eos_token_ids=config.eos_token_ids,
                bos_token_id=config.bos_token_id,
                device=self.device,
            )
        for name in ("encoder_repetition_penalty", "encoder_no_repeat_ngram_size"):
            if name in config and not decoder.shares_vocabulary:
                raise ValueError(
                    f"{name} compares ids of source and target, and this model has a vocabulary "
                    "for each: leave it out"
                )
        sources = read_sources(
            input_ids,
            attention_mask,
            vocab_size=decoder.source_vocab_size,
            pad_token_id=config.pad_token_id,
            infer_mask=not config.hf_exact,
            max_positions=decoder.max_source_positions,
            device=self.device,
        )
        return sources, read_decoder_prompts(
            decoder_input_ids,
            samples=sources.ids.shape[0],
            start_token_ids=config.decoder_start_token_ids,
            vocab_size=decoder.vocab_size,
            device=self.device,
        )


def _callables(processors: Any, criteria: Any, prefix_allowed_tokens_fn: Any) -> Callables:
    """Checked, so that nothing runs before a fault is found."""
    allowed = prefix_allowed_tokens_fn
    if not (allowed is None or callable(allowed) or isinstance(allowed, Trie)):
        raise ValueError(f"prefix_allowed_tokens_fn must be callable, not {allowed!r}")
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
