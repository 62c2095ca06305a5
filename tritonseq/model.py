"""The façade: `load`, `from_transformers` and the `Model` that they return."""

from __future__ import annotations

import contextlib
import copy
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import torch

from tritonseq.checkpoint.elsewhere import check_folder
from tritonseq.checkpoint.hub import snapshot, tokenizer_folder
from tritonseq.checkpoint.loader import from_transformers_model, load_checkpoint
from tritonseq.checkpoint.origin import Identity, Origin, origin_of
from tritonseq.decoding.stop_strings import StopStrings
from tritonseq.engine.encoder_states import EncoderStates
from tritonseq.engine.lengths import longest_text
from tritonseq.engine.pool import EnginePool
from tritonseq.engine.request import Request
from tritonseq.engine.torch_state import isolated, isolated_items
from tritonseq.options.config import GenerationConfig, as_generation_config
from tritonseq.sentences import splitting
from tritonseq.text.encoding import banned_ids
from tritonseq.text.languages import TARGET_OPTIONS, each_language
from tritonseq.text.tokenizer import Tokenizer

from .progress import Progress
from .text_task import SplitJob, TextJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from tritonseq.checkpoint.live import Watch
    from tritonseq.checkpoint.loader import Checkpoint
    from tritonseq.decoding.completion import Completion
    from tritonseq.decoding.outputs import GenerateOutput
    from tritonseq.decoding.stopping import Criterion
    from tritonseq.decoding.trie import Trie
    from tritonseq.engine.request import AllowedTokens, Ids, Sources, Streamer
    from tritonseq.sentences import Splitting

    LogitsProcessor = Callable[[Tensor, Tensor], Tensor]

BATCH_SIZE = 16
"""Texts that are generated together. A step reads all weights, for however many rows: 16 texts
share that cost, and the caches of 16 times a few beams still fit beside the weights."""

HOST = torch.device("cpu")

KEPT_STOPS = 8
"""Sets of stop strings that a model remembers the tables of, which take a look at all tokens."""


def load(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    model_type: str | None = None,
    config: Mapping[str, Any] | None = None,
    tokenizer: str | Path | None = None,
    source_cache: str = "projected",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Model:
    """Load a checkpoint from a local folder or from the Hugging Face Hub.

    Args:
        name_or_path: a folder with config.json and weights, a Hub id such as "gpt2", or a file
            with weights (.bin, .safetensors) that its configuration lies beside.
        device: "auto" takes the first GPU if there is one, else the CPU.
        dtype: "auto" takes what config.json states, else float32; float16 becomes float32 on
            the CPU, and T5 gets bfloat16 on GPUs that have it. "int8" quantizes the weights of
            matrix products, on a CPU, and computes all else in float32.
        model_type: the architecture, where config.json names none or another: "unilm" for what
            was fine-tuned with UniLM or s2s-ft and looks like a BERT.
        config: keys that count instead of those of config.json. For UniLM also the flags of its
            command lines: `new_segment_ids`, `s2s_add_segment`, `s2s_share_segment`,
            `s2s_special_token`, `pos_shift`, `do_lower_case`.
        tokenizer: a folder or Hub id with the tokenizer, if it is not beside the weights.
        source_cache: what is kept of a source while it is answered, by models with
            cross-attention. "projected": keys and values of every layer. "states": the encoder's
            states, once for all layers (EL-attention, Yan et al., 2021): a source takes 2 x layers
            times less memory, a step many more operations, and results are equal but for their
            rounding. Not with int8.
        revision: branch, tag or commit on the Hub.
        cache_dir: where downloads are kept; huggingface_hub's own cache by default.
        token: for private repositories; by default the one that `hf auth login` stored.
        local_files_only: never touch the network.

    Raises:
        ValueError: with what is wrong and what to do, if the checkpoint is not there or not
            readable.
        ConnectionError: if the Hub cannot be reached and its cache does not have everything.
    """
    at_hub = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    check = partial(check_folder, model_type=model_type, overrides=config)
    path, folder = _found(name_or_path, revision, tokenizer, at_hub, check)
    # Weights are read, compared and computed on the host, whichever default device the user has.
    with isolated(HOST):
        checkpoint = load_checkpoint(
            path,
            device=device,
            dtype=dtype,
            model_type=model_type,
            overrides=config,
            tokenizer=folder,
            source_cache=source_cache,
        )
    network: Any = checkpoint.decoder
    how = (network.device, network.weights_dtype, model_type, config, source_cache)
    origin = origin_of(path, folder, *how)
    return _model(checkpoint, origin)


def _found(
    name: str | Path,
    revision: str | None,
    tokenizer: str | Path | None,
    at_hub: Mapping[str, Any],
    check: Callable[[Path], object] = bool,
) -> tuple[Path, Path | None]:
    """Where the checkpoint lies, and its tokenizer if that is named by itself."""
    path = snapshot(name, revision=revision, check=check, **at_hub)
    return path, None if tokenizer is None else tokenizer_folder(tokenizer, **at_hub)


def load_tokenizer(
    name_or_path: str | Path,
    *,
    model_type: str | None = None,
    config: Mapping[str, Any] | None = None,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **_: Any,
) -> Tokenizer:
    """The tokenizer of a checkpoint alone; arguments are those of `load`."""
    at_hub = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    path, folder = _found(name_or_path, revision, tokenizer, at_hub)
    beside = path.parent if path.is_file() else path
    stated = {} if model_type is None else {"model_type": model_type}
    return Tokenizer.from_folder(beside if folder is None else folder, {**(config or {}), **stated})


def from_transformers(
    model: Any, *, dtype: str | torch.dtype = "auto", source_cache: str = "projected"
) -> Model:
    """Take over a live transformers model; weights are shared wherever that is possible.

    The model keeps working, and so must stay as it is: a weight that is changed in place may
    change in both. Most weights of encoder-decoder models are copies, because they are joined
    into larger products: once such a weight is changed in place, as training does, requests raise
    ValueError, and this is to be called again. (What is changed through `.data` goes unnoticed.)
    `dtype` is the model's own by default, or one of those of `load`: weights of another are copies.
    `source_cache` is that of `load`.
    Raises ValueError for an architecture that tritonseq does not implement.
    """
    with isolated(HOST):
        checkpoint = from_transformers_model(model, dtype, source_cache)
    return _model(checkpoint, None)


def _model(checkpoint: Checkpoint, origin: Origin | None) -> Model:
    stated, network = checkpoint.generation, cast("Any", checkpoint.decoder)
    if not network.is_encoder_decoder:
        # Where targets continue their prompts, transformers asks for no start, whatever it says.
        stated = {name: v for name, v in stated.items() if name != "decoder_start_token_id"}
    generation_config = GenerationConfig.from_dict(stated, strict=False, origin=checkpoint.origin)
    folder = None if origin is None else origin.folder
    return Model(
        checkpoint.decoder,
        generation_config,
        folder,
        checkpoint.tasks,
        checkpoint.config,
        origin=origin,
        watch=checkpoint.watch,
    )


def _reloaded(origin: Origin, identity: Identity) -> Model:
    """A model that was pickled by its folder."""
    return _model(origin.load(identity), origin)


class Model:
    """A loaded network with its generation defaults and, where there is one, its tokenizer.

    It can be pickled, and so sent to other processes. One that was loaded goes by its folder,
    which must then be there and hold the same weights and files, else there is a ValueError; one
    whose weights are not in a folder, or not any more, goes with its weights. `copy.copy` shares
    the network, `copy.deepcopy` has weights of its own.
    """

    def __init__(
        self,
        decoder: Any,
        generation_config: GenerationConfig,
        folder: Path | None,
        tasks: Mapping[str, Mapping[str, Any]] | None = None,
        config: Mapping[str, Any] | None = None,
        *,
        origin: Origin | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.decoder = decoder
        """The network: an `nn.Module` with `prefill` and `step`."""
        self.generation_config = generation_config
        """The defaults of `generate`, as the checkpoint gives them."""
        self.tasks = dict(tasks or {})
        """What the checkpoint recommends by task: generation options, and a prefix for texts."""
        self.engines = EnginePool()
        """What steps run on: on a GPU, captured graphs with their buffers, which are kept."""
        self._folder = folder
        self._config = config
        self._origin = origin
        self._watch = watch
        self._read_stops: dict[tuple[str, ...], StopStrings] = {}

    def __copy__(self) -> Model:
        twin = Model.__new__(Model)
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        self._check_unchanged()
        twin = copy.copy(self)
        twin._watch = None  # it shares nothing
        twin._read_stops = {}
        memo[id(self)] = twin
        for name in _OWN:
            setattr(twin, name, copy.deepcopy(getattr(self, name), memo))
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_unchanged()
        state = {name: getattr(self, name) for name in _OWN if name != "decoder"}
        identity = self._identity()
        if identity is not None:
            return _reloaded, (self._origin, identity), state
        return (
            Model,
            (self.decoder, self.generation_config, self._folder, None, self._config),
            state,
        )

    def _identity(self) -> Identity | None:
        """That of the folder, if it still holds what this model consists of."""
        origin, network = self._origin, self.decoder
        if origin is None or (origin.device, origin.dtype) != (
            str(network.device),
            str(self.dtype).removeprefix("torch."),
        ):
            return None
        try:
            identity = origin.identity()
        except (OSError, ValueError):
            return None  # it is gone, or no checkpoint any more
        return identity if identity.weights == network.checksum() else None

    def __repr__(self) -> str:
        return f"Model({type(self.decoder).__name__}, {self.dtype}, {self.device})"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.decoder.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights; torch.int8 of those of products, the rest being float32."""
        decoder = self.decoder
        dtype: torch.dtype = getattr(decoder, "weights_dtype", decoder.dtype)
        return dtype

    @property
    def source_cache(self) -> str:
        """What is kept of sources, as `load` was told."""
        kept: str = getattr(self.decoder, "source_cache", "projected")
        return kept

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the input is a source to answer, rather than a prompt to continue."""
        answer: bool = self.decoder.is_encoder_decoder
        return answer

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; needs the `text` extra."""
        return Tokenizer.from_folder(*self.tokenizer_source)

    @property
    def tokenizer_source(self) -> tuple[Path, Mapping[str, Any] | None]:
        """What `Tokenizer.from_folder` makes the tokenizer of, here or in another process."""
        if self._folder is None:
            raise ValueError(
                "a model taken over from transformers has no tokenizer here: "
                "tokenize with the one you have and call generate with its ids"
            )
        return self._folder, self._config

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
        inputs: Ids = None,
        encoder_outputs: Any = None,
        decoder_input_ids: Ids = None,
        decoder_attention_mask: Any = None,
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

        It computes on the device and in the dtype of the weights, whatever torch's default device
        and autocast are. After a fork a child may go on with the model, unless it is on a GPU.

        Args:
            input_ids: integers, or lists of ids of any lengths. With an encoder: sources
                `[B, S]`, padded on either side. Without: prompts `[B, P]` to continue, padded on
                the left; None starts from the model's bos token.
            attention_mask: the shape of `input_ids`, 0 on padding. Without one, pad tokens at the
                edges of sources are padding (with `hf_exact=True` they are text), and so are
                those before prompts, if the pad token is no end token.
            inputs: another name of `input_ids`.
            encoder_outputs: in place of ids, what any encoder made of the sources, of any length:
                states `[B, S, d]` in the width, dtype and on the device of the model, a tuple that
                begins with them, or an object with `last_hidden_state`. `attention_mask` `[B, S]`
                leaves states out, wherever they stand; options that compare with the ids of
                sources are refused.
            decoder_input_ids: `[B, P]`, what targets start with; for models with an encoder. The
                start token is put before it if it is missing in all rows.
            decoder_attention_mask: ones only, since no padding goes into `decoder_input_ids`.
            generation_config: a GenerationConfig (ours or transformers') in place of the model's
                defaults; what it leaves open is taken from them.
            task: one of `tasks`, whose options take precedence over the model's defaults.
            logits_processor: callables `(ids [R, L], scores [R, V]) -> scores`, applied after
                the built-in ones; R counts beams, samples in order. L is 0 at the first step of a
                UniLM, whose targets start empty. Diverse groups of beams are
                processed one after the other.
            stopping_criteria: callables `(ids [N, L], scores) -> bool or bool tensor [N]`; with
                beams they judge candidates, more than there are beams. `scores` is None unless
                `output_scores` asks for them.
            prefix_allowed_tokens_fn: `(sample, ids [L]) -> allowed next tokens`, or a Trie of
                allowed sequences, which is faster. As in transformers since 5.24, `sample` counts
                sources or prompts, also when several sequences of each are sampled.
            streamer: gets the prompt and every token as it is chosen; not with beams.
            options: transformers' generation parameters: max_new_tokens, num_beams, do_sample,
                no_repeat_ngram_size and so on; `hf_exact=True` also reproduces its quirks.
                `stop_strings`, one or several, need the checkpoint's tokenizer and end hypotheses
                whose last token completes one; as in transformers, that token and so the string
                stay in what is returned, and the text of a prompt (of the decoder) may begin it.

        Returns:
            `[B * num_return_sequences, L]` int64 on the device of `input_ids`, prompts of the
            decoder included; with `return_dict_in_generate=True` a GenerateOutput.

        Raises:
            ValueError: for unknown or impossible options and malformed prompts, before any work.
        """
        if return_dict_in_generate is not None:
            options["return_dict_in_generate"] = return_dict_in_generate
        with isolated(self.device):
            request = self._request(
                generation_config=generation_config,
                task=task,
                decoder_input_ids=decoder_input_ids,
                decoder_attention_mask=decoder_attention_mask,
                logits_processor=logits_processor,
                stopping_criteria=stopping_criteria,
                prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
                streamer=streamer,
                **options,
            )
            sources = self._sources(input_ids, inputs, encoder_outputs)
            output = request.run(sources, attention_mask)
        home = sources.device if isinstance(sources, torch.Tensor) else self.device
        output.sequences = output.sequences.to(home)
        if not request.config.return_dict_in_generate:
            return output.sequences
        return _asked_for(output, request.config)

    def stream(
        self,
        input_ids: Ids = None,
        attention_mask: Tensor | Sequence[Sequence[int]] | None = None,
        *,
        inputs: Ids = None,
        encoder_outputs: Any = None,
        decoder_input_ids: Ids = None,
        decoder_attention_mask: Any = None,
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
        with isolated(self.device):
            request = self._request(
                generation_config=generation_config,
                task=task,
                decoder_input_ids=decoder_input_ids,
                decoder_attention_mask=decoder_attention_mask,
                logits_processor=logits_processor,
                stopping_criteria=stopping_criteria,
                prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
                **options,
            )
            sources = self._sources(input_ids, inputs, encoder_outputs)
            tokens = request.stream(sources, attention_mask)
        return isolated_items(tokens, self.device)

    @overload
    def generate_each(
        self,
        inputs: Sequence[Tensor | Sequence[int]] | None = None,
        *,
        return_dict_in_generate: Literal[True],
        **options: Any,
    ) -> Iterator[tuple[int, GenerateOutput]]: ...

    @overload
    def generate_each(
        self, inputs: Sequence[Tensor | Sequence[int]] | None = None, **options: Any
    ) -> Iterator[tuple[int, Tensor]]: ...

    def generate_each(
        self,
        inputs: Sequence[Tensor | Sequence[int]] | None = None,
        *,
        encoder_outputs: Sequence[Tensor] | Tensor | None = None,
        slots: int = BATCH_SIZE,
        decoder_input_ids: Ids = None,
        generation_config: Any = None,
        task: str | None = None,
        prefix_allowed_tokens_fn: Trie | None = None,
        return_dict_in_generate: bool | None = None,
        **options: Any,
    ) -> Iterator[tuple[int, Tensor]] | Iterator[tuple[int, GenerateOutput]]:
        """Answer sources or continue prompts of any lengths, and yield each as soon as it is done.

        Up to `slots` of them are generated side by side. One that is done leaves its slot, and the
        next takes it while the others go on; so no slot waits for the longest answer of a batch.
        Greedy and beam search find what `generate` finds for each input alone.

        Args:
            inputs: ids of every source or prompt, `[L]` each, without padding.
            encoder_outputs: in place of ids, states `[S, d]` of each source, without padding.
            slots: how many are in the works at once; memory is that of a batch of so many.
            decoder_input_ids: one row per input, all of one length.
            prefix_allowed_tokens_fn: a Trie; functions work with `generate` only.
            options: those of `generate`, without callables, streamers and recorded scores.

        Yields:
            The place of an input and its `[num_return_sequences, L]` int64 ids, in the order in
            which they are done; with `return_dict_in_generate=True` a GenerateOutput.

        Raises:
            ValueError: as `generate` does, for any of the inputs, before anything runs.
        """
        if return_dict_in_generate is not None:
            options["return_dict_in_generate"] = return_dict_in_generate
        with isolated(self.device):
            request = self._request(
                generation_config=generation_config,
                task=task,
                decoder_input_ids=decoder_input_ids,
                prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
                **options,
            )
            sources = self._each_source(inputs, encoder_outputs)
            found = request.each(sources, slots)
        if request.config.return_dict_in_generate:
            outputs = ((place, _asked_for(output, request.config)) for place, output in found)
            return isolated_items(outputs, self.device)
        sequences = ((place, output.sequences) for place, output in found)
        return isolated_items(sequences, self.device)

    def generate_text(
        self,
        texts: Iterable[str],
        *,
        src_lang: str | Sequence[str | None] | None = None,
        tgt_lang: str | Sequence[str | None] | None = None,
        prefix: str | None = None,
        split_sentences: bool | str = False,
        truncation: bool = False,
        max_source_length: int | None = None,
        add_special_tokens: bool = True,
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
        bad_words: Sequence[str] | None = None,
        batch_size: int = BATCH_SIZE,
        progress: bool = False,
        task: str | None = None,
        **options: Any,
    ) -> list[str]:
        """Answer or continue texts: tokenize, generate in batches, and decode what was generated.

        A text of white space only has blank outputs, and no texts have none. All texts are read
        before anything is generated. Batches are of texts of about equal lengths, and results
        stand in the order of `texts`. Greedy and beam search find the same text in any batch,
        unless max_length counts a prompt with its padding: with models that have no encoder prefer
        max_new_tokens. When sampling, with a streamer, and with logits processors and stopping
        criteria, texts are not reordered; max_time is that of a batch.

        Args:
            src_lang, tgt_lang: languages of source and target, in the codes of the checkpoint:
                "en_XX" for mBART, "fra_Latn" for NLLB, "fr" for M2M100, "fra" for a Marian model
                with several targets. A list has one for each text, or None where nothing is said.
                A `forced_bos_token_id` or `decoder_start_token_id` that is passed as well counts
                in the place of the token of `tgt_lang`.
            prefix: put before every text; by default that of the task, if there is one.
            split_sentences: for translation models, which are trained on sentences: cut texts into
                sentences by the rules of the source language (`src_lang`, or what the checkpoint
                says; in `pipeline` that of each text), or of the one that is named here for
                all, such as "en". Each is generated as a text of its own, and the outputs are
                joined with what stood between the sentences (a space, if that was nothing;
                nothing, beside Chinese and Japanese characters). Of several outputs the k-th is
                made of the k-th of each. Needs the `sentences` extra.
            truncation: shorten texts to the positions of the encoder, or to what the checkpoint's
                tokenizer recommends if that is less; T5 has this limit only. Of prompts to
                continue, the end is kept, with room for what is generated. Where
                tokenizer_config.json says truncation_side, that is where texts are cut.
            max_source_length: shorten texts to so many tokens, or to the positions of the model
                if they are fewer, whatever the tokenizer recommends.
            add_special_tokens: put the special tokens of the checkpoint around texts.
            skip_special_tokens: leave special tokens out of what is returned. With False, a text
                begins with what targets start with and ends with its end token; the padding
                behind that, of which other texts of a batch decide, is left out in any case.
            clean_up_tokenization_spaces: remove spaces before punctuation; by default what the
                checkpoint says. Byte-level BPE has none that would have to go.
            bad_words: texts that are not to be written, beside `bad_words_ids` of options or the
                checkpoint: each by the tokens that it has behind a space, and by those that it
                has without one, in which it is found within longer words as well (" fox" bans
                the first alone). In sentencepiece models both are one, a word of its own, which
                stays within longer words. Other cuttings of it into tokens, and capital letters,
                are other texts. Where the vocabulary has no tokens for one, there is a ValueError.
            batch_size: texts that are generated together.
            progress: show a bar on stderr meanwhile, also in a notebook.
            task: one of `tasks`, such as "summarization".
            options: those of `generate`.

        Returns:
            `len(texts) * num_return_sequences` strings, without the prompts that they continue.

        Raises:
            ValueError: for what `generate` refuses, for tables, dictionaries and other containers
                that are no list of texts, and for texts that cannot be tokenized. Needs
                the `text` extra and a checkpoint with a tokenizer.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}: it must be an integer >= 1")
        if not isinstance(progress, bool):
            raise ValueError(f"progress is {progress!r}: it must be True or False")
        for_all, each = _split({"src_lang": src_lang, "tgt_lang": tgt_lang})
        job = self.text_job(
            **for_all,
            prefix=prefix,
            split_sentences=split_sentences,
            truncation=truncation,
            max_source_length=max_source_length,
            add_special_tokens=add_special_tokens,
            skip_special_tokens=skip_special_tokens,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            bad_words=bad_words,
            task=task,
            **options,
        )
        with isolated(self.device):
            if split_sentences and each:
                raise ValueError(
                    "split_sentences with a language for each text: pass texts of one language at "
                    "a time, or use pipeline"
                )
            split = SplitJob(job) if split_sentences else None
            rows: Any = job.read(texts, **each) if split is None else split.read(texts)
            if targets := each.get("tgt_lang"):
                both = zip(targets, rows, strict=True)
                job = job.to([code if row else None for code, row in both])
            bar = Progress(len(rows), lines=rows.count([]), quiet=not progress, asked=True)
            done: dict[int, Completion] = {}
            tokens = 0
            with contextlib.closing(bar):
                for batch in (split or job).run(rows, batch_size):
                    done |= batch
                    tokens += sum(each.tokens for each in batch.values())
                    bar.show(len(done), tokens, 0)
            return [text for place in range(len(rows)) for text in done[place].texts or ()]

    def text_job(
        self,
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        prefix: str | None = None,
        split_sentences: bool | str = False,
        truncation: bool = False,
        max_source_length: int | None = None,
        add_special_tokens: bool = True,
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
        bad_words: Sequence[str] | None = None,
        task: str | None = None,
        **options: Any,
    ) -> TextJob:
        """`generate_text` without the texts: reads, pads and answers those that it is given."""
        for name in _NOT_OF_TEXTS:
            value = options.pop(name, None)
            if value is not None and value is not False:
                raise ValueError(
                    f"generate_text takes texts and returns texts: {name} is for generate"
                    f"{_INSTEAD.get(name, '')}"
                )
        for name, flag, kinds in (
            ("truncation", truncation, (bool,)),
            ("add_special_tokens", add_special_tokens, (bool,)),
            ("skip_special_tokens", skip_special_tokens, (bool,)),
            ("clean_up_tokenization_spaces", clean_up_tokenization_spaces, (bool, type(None))),
        ):
            if not isinstance(flag, kinds):
                raise ValueError(f"{name} is {flag!r}: it must be True or False")
        for name, text in (("prefix", prefix), ("src_lang", src_lang), ("tgt_lang", tgt_lang)):
            if not isinstance(text, str | None):
                raise ValueError(f"{name} is {text!r}: it must be a string")
        sentences = self._sentences(split_sentences, src_lang)
        told = {} if tgt_lang is None else self.tokenizer.target_options(tgt_lang)
        if prefix is None:
            prefix = self.task_options(task).get("prefix") if task is not None else None
        settled = [name for name in TARGET_OPTIONS if options.get(name) is not None]
        options = {**told, **options}
        request = self._request(task=task, return_dict_in_generate=False, **options)
        if bad_words is not None:
            options["bad_words_ids"] = self._banned(bad_words, request.config)
            request = self._request(task=task, return_dict_in_generate=False, **options)
        return TextJob.of(
            self.tokenizer,
            request,
            settled=settled,
            src_lang=src_lang,
            tgt_lang=tgt_lang,
            prefix=prefix or "",
            sentences=sentences,
            max_length=self._source_limit(truncation, max_source_length, request.config),
            add_special_tokens=add_special_tokens,
            skip_special_tokens=skip_special_tokens,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
        )

    def _sentences(self, asked: bool | str, src_lang: str | None) -> Splitting | None:
        """How texts are cut into sentences; ValueError if that cannot be known."""
        if not isinstance(asked, bool | str) or asked == "":
            raise ValueError(
                f"split_sentences is {asked!r}: it must be True, False or a language such as 'en'"
            )
        if asked is False:
            return None
        if not self.is_encoder_decoder:
            raise ValueError(
                "split_sentences is for models that answer texts, and this one continues them: "
                "leave it out"
            )
        named = asked if isinstance(asked, str) else src_lang or self.tokenizer.source_language
        if named is None:
            raise ValueError(
                "split_sentences=True: the checkpoint does not say what language it reads; pass "
                "that of the texts, split_sentences='en' (--split-sentences en)"
            )
        return splitting(named, self.tokenizer.opening, is_usual=asked is True)

    def tokenize(self, texts: Iterable[str], **how: Any) -> tuple[Tensor, Tensor]:
        """Ids `[B, S]` and mask `[B, S]` of texts, padded on the side that the model wants.

        Arguments are those of `generate_text`; texts may have any number of tokens.
        """
        if how.get("split_sentences"):
            raise ValueError("split_sentences makes several rows of a text: leave it out here")
        named = {name: how.pop(name, None) for name in ("src_lang", "tgt_lang")}
        for_all, each = _split(named)
        job = self.text_job(**for_all, **how)
        with isolated(self.device):
            return job.pad(job.encoder.ids(job.told(list(texts), **each) if each else texts))

    def task_options(self, task: str) -> dict[str, Any]:
        """What the checkpoint recommends for a task; ValueError if it knows no such task."""
        if not isinstance(task, str) or task not in self.tasks:
            known = f"it has {', '.join(sorted(self.tasks))}" if self.tasks else "it has none"
            raise ValueError(f"task {task!r} is not among those of the checkpoint: {known}")
        return dict(self.tasks[task])

    def _request(
        self, *, generation_config: Any = None, task: str | None = None, **arguments: Any
    ) -> Request:
        """The arguments of `generate` but for the ids; options and callables in any order."""
        self._check_unchanged()
        taken = {name: arguments.pop(name) for name in _FOR_REQUEST if name in arguments}
        config = self.generation_config
        if task is not None:
            stated = self.task_options(task)
            origin = f"task_specific_params of config.json, {task!r},"
            config = GenerationConfig.from_dict(stated, strict=False, origin=origin).over(config)
        if generation_config is not None:
            config = as_generation_config(generation_config, defaults=config)
        config = config.merged(**arguments)
        config.check_vocabulary(self.decoder.vocab_size)
        stops = self._stops(config.stop_strings) if config.stop_strings else None
        return Request.of(self.decoder, config, self.engines, stops=stops, **taken)

    def _stops(self, asked: str | Sequence[str]) -> StopStrings:
        """What strings are to the vocabulary; ValueError without a tokenizer."""
        strings = (asked,) if isinstance(asked, str) else tuple(asked)
        if strings not in self._read_stops:
            try:
                tokenizer = self.tokenizer
            except ValueError as error:
                raise ValueError(
                    f"stop_strings needs the checkpoint's tokenizer: {error}"
                ) from None
            pieces = tokenizer.pieces()
            for oldest in list(self._read_stops)[: 1 - KEPT_STOPS]:
                self._read_stops.pop(oldest, None)
            with isolated(HOST):
                self._read_stops[strings] = StopStrings(strings, pieces, self.decoder.vocab_size)
        return self._read_stops[strings]

    def _banned(self, words: Sequence[str], config: GenerationConfig) -> list[Sequence[int]] | None:
        """`bad_words_ids` of these texts and of the options; None if there are none."""
        found = banned_ids(self.tokenizer, words)
        for row in found:
            if len(row) == 1 and row[0] in config.eos_token_ids:
                raise ValueError(
                    "bad_words has the end token, which is never banned so: pass min_new_tokens "
                    "for longer texts"
                )
        return [*(config.bad_words_ids or ()), *found] or None

    def _sources(self, input_ids: Ids, inputs: Ids, encoder_outputs: Any) -> Sources:
        """What is read, by one of its three names."""
        if input_ids is not None and inputs is not None:
            raise ValueError("inputs is another name of input_ids: pass one of them")
        ids = input_ids if inputs is None else inputs
        if encoder_outputs is None:
            return ids
        if ids is not None:
            raise ValueError(_ONE_OF_BOTH)
        return EncoderStates.of(encoder_outputs, self.decoder)

    def _each_source(self, inputs: Any, encoder_outputs: Any) -> Any:
        """As `_sources`, one by one."""
        if encoder_outputs is None:
            return inputs
        if inputs is not None:
            raise ValueError(_ONE_OF_BOTH)
        return EncoderStates.each(encoder_outputs, self.decoder)

    def _check_unchanged(self) -> None:
        """Raise ValueError if the live model that this one shares weights with has changed."""
        if self._watch is not None:
            self._watch.check()

    def _source_limit(
        self, truncation: bool, max_source_length: int | None, config: GenerationConfig
    ) -> int | None:
        """To how many ids sources are cut; None if they are not."""
        if not truncation and max_source_length is None:
            return None
        if max_source_length is None:
            recommended = self.tokenizer.max_length
        elif type(max_source_length) is int and max_source_length > 0:
            recommended = max_source_length
        else:
            raise ValueError(
                f"max_source_length is {max_source_length!r}: it must be an integer >= 1"
            )
        room = longest_text(self.decoder, config)
        if room is not None and room < 1:
            raise ValueError(
                f"no room is left for a text: the model has {self.decoder.max_positions} "
                "positions for it and what is generated; pass a smaller max_new_tokens, and no "
                "smaller max_length"
            )
        limits = [limit for limit in (room, recommended) if limit is not None]
        if not limits:
            raise ValueError(
                "truncation=True: there is no limit to cut to, since the encoder reads any number "
                "of tokens and tokenizer_config.json names none; pass max_source_length "
                "(--max-source-length)"
            )
        return min(limits)


_OWN = ("decoder", "generation_config", "tasks", "engines")
"""What a copy of a model has of its own, and a user may have changed."""

_NOT_OF_TEXTS = (
    "input_ids",
    "inputs",
    "attention_mask",
    "encoder_outputs",
    "return_dict_in_generate",
    "output_scores",
    "output_logits",
    "output_token_scores",
)
"""Arguments of `generate` that texts take the place of, as what is read or what is returned."""

_INSTEAD = {
    "output_scores": "; the results of pipeline have the scores of beams",
    "output_token_scores": "; pipeline takes it, too",
}
"""How texts come with what those arguments ask for."""

_ONE_OF_BOTH = "encoder_outputs stand in the place of input_ids: pass one of them"

_FOR_REQUEST = (
    "decoder_input_ids",
    "decoder_attention_mask",
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "streamer",
)


def _split(named: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[str | None]]]:
    """Languages by their arguments: one for all texts or none, and lists with one for each."""
    for_all = {name: code for name, code in named.items() if isinstance(code, str | None)}
    each = {name: each_language(name, named[name]) for name in named if name not in for_all}
    return for_all, each


def _asked_for(output: GenerateOutput, config: GenerationConfig) -> GenerateOutput:
    """Without what is known anyway, and that a result has only if it was asked for."""
    if not config.output_scores:
        output.sequences_scores = output.beam_trace = None
    return output
