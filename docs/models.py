"""The page of the models: `python docs/models.py` writes docs/models.md from tables of the code.

What stands for a model are the rows here; which models, tokenizers and refusals there are, the code
says, and a test compares the page with what this makes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tritonseq.checkpoint.elsewhere import OTHER_FAMILIES
from tritonseq.models import MODELS
from tritonseq.text import tokenizer_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PAGE = Path(__file__).with_name("models.md")


class Row(NamedTuple):
    """What a user knows a `model_type` by."""

    checkpoints: str
    """Names that stand for many, and families."""
    note: str
    """Options of note, and what is particular."""
    tokenizer: str = ""
    """Its families, where the type of the model alone does not name one."""


ROWS = {
    "blenderbot": Row(
        "facebook/blenderbot-400M-distill, -1B-distill, -3B",
        "answers what is said in a dialogue",
        "blenderbot",
    ),
    "fsmt": Row(
        "facebook/wmt19-en-de, -de-en, -en-ru, -ru-en, allenai/wmt16-*, allenai/wmt19-de-en-*",
        "a vocabulary each for source and target; text needs the extra `moses`, and has no "
        "`stop_strings`",
    ),
    "m2m_100": Row(
        "facebook/nllb-200-distilled-600M to -3.3B, facebook/m2m100_418M, m2m100_1.2B, "
        "alirezamsh/small100",
        '`src_lang` and `tgt_lang`: "eng_Latn" for NLLB, "en" for the others, of which SMaLL-100 '
        "is told the target alone; `split_sentences` for more than a sentence",
        "nllb m2m100 small100",
    ),
    "mvp": Row("RUCAIBox/mvp, mtl-*", "checkpoints with prompts (`use_prompt`) are refused"),
    "plbart": Row(
        "uclanlp/plbart-base, plbart-*",
        'programs; `src_lang` and `tgt_lang` such as "java" and "en_XX"',
    ),
    "bart": Row(
        "facebook/bart-base and -large, bart-large-cnn, bart-large-xsum, sshleifer/distilbart-*, "
        "philschmid/bart-large-cnn-samsum, fnlp/bart-base-chinese",
        '`task="summarization"` where config.json has it',
        "bart bert",
    ),
    "gpt2": Row(
        "gpt2 (124M to 1.5B), distilgpt2, microsoft/DialoGPT-*, uer/gpt2-chinese-*",
        "continues prompts, which are padded on the left; no encoder, so no `src_lang`, no "
        "`split_sentences`",
        "gpt2 bert",
    ),
    "marian": Row(
        "Helsinki-NLP/opus-mt-*, opus-mt-tc-big-*",
        "`tgt_lang` of models with several targets, or `>>fra<<` in the text; "
        "`split_sentences` for more than a sentence",
    ),
    "mbart": Row(
        "facebook/mbart-large-cc25, mbart-large-en-ro, mbart-large-50-*, "
        "moussaKam/barthez, moussaKam/mbarthez, vinai/bartpho-*",
        '`src_lang` and `tgt_lang`, such as "en_XX"; `split_sentences` for more than a sentence',
        "mbart mbart50 barthez bartpho",
    ),
    "mt5": Row(
        "google/mt5-small to -xxl, csebuetnlp/mT5_multilingual_XLSum, bigscience/mt0-*",
        '`dtype="auto"` is bfloat16 on GPUs that have it: float16 overflows',
        "mt5 t5",
    ),
    "pegasus": Row(
        "google/pegasus-large, pegasus-xsum, pegasus-cnn_dailymail, tuner007/pegasus_paraphrase",
        "`truncation=True` cuts sources to the positions of the encoder",
    ),
    "prophetnet": Row(
        "microsoft/prophetnet-large-uncased, -cnndm, -squad-qg",
        "decoder prompts of several tokens, which transformers reads wrong, are right",
        "prophetnet",
    ),
    "t5": Row(
        "t5-small to t5-11b, google/t5-v1_1-*, google/flan-t5-*, google/ul2, google/flan-ul2, "
        "google/byt5-*, google/madlad400-*-mt, Salesforce/codet5-*",
        "`task=` or `prefix=` puts the instruction before texts; sources of any length; bfloat16 "
        "on GPUs that have it",
        "t5 byt5 bart",
    ),
    "xlm-prophetnet": Row(
        "microsoft/xprophetnet-large-wiki100-cased, -xglue-ntg, -xglue-qg",
        "the same network; transformers 5 has it no longer",
        "xlm_prophetnet",
    ),
    "umt5": Row("google/umt5-small to -xxl", "a relative bias in every layer"),
    "unilm": Row(
        "microsoft/unilm-base-cased, unilm1-*, unilm1.2-*, unilm2-*, MiniLM, BERT and RoBERTa, "
        "fine-tuned by UniLM's own scripts or by s2s-ft",
        '`search="unilm"` is the default; `model_type="unilm"` for what looks like a BERT; see '
        "README",
        "bert bart",
    ),
}

FILES = {
    "albert": "`spiece.model`",
    "bart": "`vocab.json` and `merges.txt`: byte-level BPE",
    "barthez": "`sentencepiece.bpe.model`",
    "bartpho": "`sentencepiece.bpe.model` and `dict.txt`",
    "bert": "`vocab.txt`: WordPiece",
    "blenderbot": "`vocab.json` and `merges.txt`: byte-level BPE",
    "byt5": "none: bytes",
    "camembert": "`sentencepiece.bpe.model`",
    "fsmt": "`vocab-src.json`, `vocab-tgt.json` and `merges.txt`: fastBPE of words by Moses",
    "gpt2": "`vocab.json` and `merges.txt`: byte-level BPE",
    "m2m100": "`vocab.json` and `sentencepiece.bpe.model`",
    "marian": "`source.spm`, `target.spm` and `vocab.json`, or `target_vocab.json` too",
    "mbart": "`sentencepiece.bpe.model`",
    "mbart50": "`sentencepiece.bpe.model`",
    "mt5": "`spiece.model`",
    "nllb": "`sentencepiece.bpe.model`",
    "pegasus": "`spiece.model`",
    "plbart": "`sentencepiece.bpe.model`",
    "prophetnet": "`prophetnet.tokenizer`: WordPiece",
    "small100": "`vocab.json` and `sentencepiece.bpe.model`",
    "t5": "`spiece.model`",
    "umt5": "`spiece.model`",
    "xlm_prophetnet": "`prophetnet.tokenizer`: sentencepiece",
    "xlm_roberta": "`sentencepiece.bpe.model`",
}
"""By families of tokenizers, the files that they are read from where there is no tokenizer.json."""

HEAD = """\
# Models

Made by `python docs/models.py` from the tables of the code: what is changed here is lost.

A checkpoint is supported by its `model_type` in config.json, whoever trained it; the names below
stand for others of their kind. Weights are safetensors or `pytorch_model.bin`; dtypes float32,
bfloat16, float16, and int8 on CPUs. All models have greedy search, sampling, beam search
and what `generate` has beside them; `stop_strings`, `generate_text`, `pipeline` and file jobs want
the checkpoint's tokenizer.
"""

TOKENIZERS = """\
## Tokenizers

A `tokenizer.json` is read as its class in transformers reads it; without one the files of the
family are. The class is that of tokenizer_config.json, else of config.json, else of `model_type`.
"""

ELSEWHERE = """\
## Not supported

`load` says so by config.json alone, before weights are asked for.
"""


def page() -> str:
    """The whole page."""
    models = (
        (f"`{kind}`", row.checkpoints, ", ".join(tokenizers(kind)), row.note)
        for kind, row in ((kind, ROWS[kind]) for kind in sorted(MODELS))
    )
    known = tokenizer_config._KNOWN
    own = ((f"{family}", classes(known[family][0]), FILES[family]) for family in sorted(known))
    others = (
        (family.name, code(family.model_types.split()), family.reason, family.place)
        for family in OTHER_FAMILIES
    )
    return "\n".join(
        (
            HEAD,
            *table(("`model_type`", "checkpoints", "tokenizers", "of note"), models),
            "",
            TOKENIZERS,
            *table(("family", "classes", "files"), own),
            "",
            ELSEWHERE,
            *table(("what", "`model_type`", "why", "better place"), others),
            "",
        )
    )


def tokenizers(kind: str) -> list[str]:
    """The families of tokenizers that checkpoints of a type have."""
    named = ROWS[kind].tokenizer.split()
    return named or [str(tokenizer_config.family_of({}, {"model_type": kind}, ())[0])]


def classes(names: str) -> str:
    return code(f"{name}Tokenizer" for name in names.split())


def code(words: Iterable[str]) -> str:
    return " ".join(f"`{word}`" for word in words)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table in Markdown."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    PAGE.write_text(page())
