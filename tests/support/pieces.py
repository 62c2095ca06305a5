"""Tokenizers trained on the spot, and those of transformers by the same files."""

from __future__ import annotations

import io
import json
import random
from typing import TYPE_CHECKING, Any

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import ByteLevelBPETokenizer, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from transformers import (
    ByT5Tokenizer,
    MarianTokenizer,
    MBart50Tokenizer,
    MBartTokenizer,
    PegasusTokenizer,
    T5Tokenizer,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FAMILIES = {
    "t5": T5Tokenizer,
    "byt5": ByT5Tokenizer,
    "pegasus": PegasusTokenizer,
    "mbart": MBartTokenizer,
    "mbart50": MBart50Tokenizer,
    "marian": MarianTokenizer,
}
BART = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
# Where each family has the tokens that steer.
_T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
_FAIRSEQ = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
_MARIAN = {"eos_id": 0, "unk_id": 1, "bos_id": -1, "pad_id": -1}
_MODELS = {
    "t5": ("spiece.model", _T5),
    "pegasus": ("spiece.model", _T5),
    "mbart": ("sentencepiece.bpe.model", _FAIRSEQ),
    "mbart50": ("sentencepiece.bpe.model", _FAIRSEQ),
}
_TEXT = """
the quick brown fox jumps over lazy dogs and cats while summer rain falls on old houses near river
it is not true that we can't go home again Über Wölkchen Freiheit grenzenlos naïve café 1999 2026
3.14 $5 (really?) yes! no, maybe; e-mail summarize: translate English to German:
"""
_WORDS = _TEXT.split()


def train(path: Path, **options: Any) -> SentencePieceProcessor:
    """A model of about 200 pieces."""
    draw = random.Random(0)
    lines = [" ".join(draw.choices(_WORDS, k=draw.randint(3, 12))) for _ in range(400)]
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        minloglevel=2,
        **{"vocab_size": 200, "hard_vocab_limit": False, **options},
    )
    path.write_bytes(model.getvalue())
    return SentencePieceProcessor(model_file=str(path))


def write_checkpoint(folder: Path, family: str, **options: Any) -> Path:
    """The tokenizer's files of a family, and what names the family."""
    folder.mkdir(exist_ok=True)
    name = FAMILIES[family].__name__
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    if family in _MODELS:
        file, ids = _MODELS[family]
        train(folder / file, **ids, **options)
    if family == "marian":
        source = train(folder / "source.spm", **_MARIAN)
        target = train(folder / "target.spm", model_type="bpe", **_MARIAN)
        pieces = {m.id_to_piece(i) for m in (source, target) for i in range(m.get_piece_size())}
        own = sorted(pieces - {"</s>", "<unk>"})
        tokens = ["</s>", "<unk>", *own, ">>fra<<", ">>deu<<", ">>frp<<", "<pad>"]
        (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    return folder


def write_byte_pairs(
    folder: Path, texts: Sequence[str], special: list[str], *, size: int = 300, **config: Any
) -> Path:
    """vocab.json and merges.txt of a byte-level BPE, and config.json if it says anything."""
    folder.mkdir(exist_ok=True)
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=size, special_tokens=special)
    trained.save_model(str(folder))
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_fsmt(folder: Path, *, langs: tuple[str, str] = ("en", "de"), **config: Any) -> Path:
    """vocab-src.json, vocab-tgt.json and merges.txt, of which some pieces are in one list only."""
    folder.mkdir(exist_ok=True)
    backend = Backend(models.BPE(end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=200, end_of_word_suffix="</w>", show_progress=False)
    backend.train_from_iterator([_TEXT, "&apos; &quot; @-@ &amp; &#91; &lt;"] * 5, trainer)
    pieces = sorted(backend.get_vocab())
    draw = random.Random(0)
    for side in ("src", "tgt"):
        kept = draw.sample(pieces, k=len(pieces) * (4 if side == "src" else 5) // 6)
        ids = {name: n for n, name in enumerate(("<s>", "<pad>", "</s>", "<unk>", *kept))}
        (folder / f"vocab-{side}.json").write_text(json.dumps(ids))
    merges = json.loads(backend.to_str())["model"]["merges"]
    lines = [f"{first} {second} {n}\n" for n, (first, second) in enumerate(merges)]
    (folder / "merges.txt").write_text("".join(lines))
    said = {"tokenizer_class": "FSMTTokenizer", "langs": langs, "model_max_length": 1024, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def model_of(folder: Path) -> SentencePieceProcessor:
    (path,) = folder.glob("*.model")
    return SentencePieceProcessor(model_file=str(path))


def theirs(folder: Path, family: str, *, extra_ids: int = 100) -> Any:
    """transformers' tokenizer; it reads sentencepiece models only with yet another library."""
    if family not in _MODELS:
        return FAMILIES[family].from_pretrained(folder)
    pieces, charsmap = pieces_of(model_of(folder))
    if family == "t5":
        pieces += [(f"<extra_id_{n}>", 0.0) for n in reversed(range(extra_ids))]
    if family == "pegasus":
        first = ["<pad>", "</s>", "<mask_1>", "<mask_2>", *(f"<unk_{n}>" for n in range(2, 103))]
        pieces = [(name, 0.0) for name in first] + pieces[2:]
    if family == "mbart":
        codes = [(code, 0.0) for code in MBartTokenizer().lang_code_to_id]
        first = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
        pieces = [*first, *pieces[3:], *codes, ("<mask>", 0.0)]
    options = {} if extra_ids == 100 else {"extra_ids": extra_ids}
    return FAMILIES[family](vocab=pieces, _spm_precompiled_charsmap=charsmap, **options)


def pieces_of(model: SentencePieceProcessor) -> tuple[list[tuple[str, float]], bytes]:
    """The pieces of a model with their scores, and the table of its normalizer."""
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]
    return pieces, _charsmap(model.serialized_model_proto())


def _charsmap(model: bytes) -> bytes:
    """The table of the normalizer: field 2 of field 3, as protocol buffers write them."""
    for field in (3, 2):
        model = next((value for number, value in _fields(model) if number == field), b"")
    return model


def _fields(message: bytes) -> Any:
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        number, kind = divmod(varint(), 8)
        size = {0: 0, 1: 8, 5: 4}.get(kind)
        if kind == 0:
            varint()
        else:
            size = varint() if size is None else size
            yield number, message[at : at + size]
            at += size
