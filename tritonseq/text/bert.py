"""BERT's WordPieces for other models, as Chinese GPT-2 and BART have them.

Devlin et al., "BERT", 2019. Those of UniLM, which reads and writes them in its own way, are in
`wordpieces.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritonseq.checkpoint.json_files import refuse_unfit

from .fast import FastVocabulary, add_tokens, check_ids, library_errors, tokenizers_library

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .special_tokens import Stated

BERT_ROLES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
"""The special tokens of every BERT, unless other ones are said."""


def bert_vocabulary(path: Path, config: Mapping[str, Any], stated: Stated) -> FastVocabulary:
    """Read `vocab.txt`: a token a line, whose number is its id; [CLS] and [SEP] frame every text.

    `config` may say `do_lower_case` (yes), `strip_accents` (as lower-casing) and
    `tokenize_chinese_chars` (yes). Raises ValueError if the file is no UTF-8 or lacks a token that
    it must have, or the `text` extra is missing.
    """
    library = tokenizers_library()
    refuse_unfit(path)
    roles = {**BERT_ROLES, **stated.roles}
    with library_errors(path):
        # Of two lines with the same token, the later one counts.
        vocabulary = library.models.WordPiece.read_file(str(path))
        model = library.models.WordPiece(vocabulary, unk_token=roles["unk_token"])
    for role in ("unk_token", "cls_token", "sep_token"):
        if roles[role] not in vocabulary:
            raise ValueError(
                f"{path} has no {roles[role]}, the {role} of this BertTokenizer: is it the "
                "vocabulary of another model?"
            )
    backend = library.Tokenizer(model)
    backend.normalizer = library.normalizers.BertNormalizer(**normalizing(config))
    backend.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    backend.decoder = library.decoders.WordPiece(prefix="##")
    add_tokens(backend, stated)
    backend.add_special_tokens(list(dict.fromkeys(roles[role] for role in BERT_ROLES)))
    check_ids(path, backend)
    ends = [backend.token_to_id(roles[role]) for role in ("cls_token", "sep_token")]
    return FastVocabulary(backend, (ends[:1], ends[1:]))


def normalizing(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the normalizer, as a BertTokenizer has them."""
    chinese = config.get("tokenize_chinese_chars")
    lowercase = config.get("do_lower_case")
    return {
        "handle_chinese_chars": True if chinese is None else chinese,
        "strip_accents": config.get("strip_accents"),
        "lowercase": True if lowercase is None else lowercase,
    }
