"""Special and added tokens of a checkpoint, as its JSON files name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.checkpoint.files import is_there, read_json
from tritonseq.options.containers import unicode_fault
from tritonseq.shown import shown

from .tokenizer_config import LISTS, ROLES, check_keys, is_token_key
from .vocabulary import SPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FLAGS = ("lstrip", "rstrip", "single_word", "normalized")

MOST_IDS = 2**32
"""Beyond any vocabulary; the `tokenizers` library has 32 bits for an id."""


class Token(NamedTuple):
    """A token that is no ordinary piece of text."""

    content: str
    id: int | None
    """None where no file states it."""
    special: bool
    flags: Mapping[str, bool]
    """Those of `FLAGS` that are stated."""
    is_whole: bool = False
    """Whether this is all about it, whatever the vocabulary says."""


class Stated(NamedTuple):
    """What the files say."""

    path: Path
    """The file that most of it comes from."""
    roles: Mapping[str, str]
    """Contents by role, such as "eos_token"."""
    tokens: tuple[Token, ...]
    """Those with ids first, in the order of these; each content once."""
    listed: frozenset[str] = frozenset()
    """Contents that are named as special tokens, wherever."""

    def all_special(self) -> Stated:
        """With all that are listed special, whatever their objects say: as transformers has it
        for tokenizers without the `tokenizers` library."""
        return self._replace(
            tokens=tuple(
                token._replace(special=token.special or token.content in self.listed)
                for token in self.tokens
            )
        )

    def having(self, flag: str) -> set[str]:
        """Contents of the tokens with a flag of `FLAGS`."""
        return {token.content for token in self.tokens if token.flags.get(flag)}

    def expect(self, kind: str, **usual: str) -> None:
        """Raise ValueError if a role has another token than it always has in tokenizers of `kind`.

        Those are what stands around texts, and for what is unknown.
        """
        for role, content in usual.items():
            if self.roles.get(role, content) != content:
                raise ValueError(
                    f"{self.path} says {role} is {shown(self.roles[role])}, and that of {kind} is "
                    f"{shown(content)}: with another one, save tokenizer.json with transformers "
                    "(AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER))"
                )


class Numbered(NamedTuple):
    """Tokens that a checkpoint has beside its model or list of pieces."""

    special: dict[str, int]
    plain: dict[str, int]


class _Malformed(Exception):
    """What is wrong with a token."""


def read_stated(folder: Path, config: Mapping[str, Any]) -> Stated:
    """The tokens that the files of a folder name; `config` is its tokenizer_config.json.

    `added_tokens_decoder` of that says all about ids and flags. Where it is missing, so do
    `added_tokens.json` and `special_tokens_map.json`, which older versions wrote. Raises ValueError
    that names the file for what cannot be read.
    """
    path, beside = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
    named, with_ids = _of(path, config), _by_id(path, config)
    if config.get("added_tokens_decoder") is None:
        old = read_json(beside) if is_there(beside) else {}
        check_keys(beside, old)
        # Those of that file are special, though it never says so.
        more = {key: token._replace(special=True) for key, token in _of(beside, old).items()}
        named = {**named, **more}
        with_ids = _in_file(
            folder / "added_tokens.json", {token.content for token in named.values()}
        )
    # Those that are new are given their ids in this order.
    named = dict(sorted(named.items(), key=lambda item: _rank(item[0])))
    # Those with a role are special; of those in lists, only the ones whose objects say it.
    special = {
        token.content for key, token in named.items() if token.special or not key.endswith("]")
    }
    tokens: dict[str, Token] = {}
    for token in (*with_ids, *named.values()):
        if fault := unicode_fault(token.content):
            raise _unreadable(path, repr(token.content), f"no valid Unicode: {fault}")
        # Whatever is said of it by its id.
        is_special = token.special or token.content in special
        tokens.setdefault(token.content, token._replace(special=is_special))
    roles = {name: token.content for name, token in named.items() if name in ROLES}
    listed = frozenset(token.content for token in named.values())
    return Stated(path, roles, tuple(tokens.values()), listed)


def number(
    stated: Stated,
    known: Callable[[str], int | None],
    size: int,
    named: Callable[[int], str | None],
) -> Numbered:
    """The ids of stated tokens: their own, those of the vocabulary, or new ones behind it.

    `known` tells the id of a token that the vocabulary of `size` tokens has, `named` what has an
    id there. Raises ValueError if that is another than the one stated, by either.
    """
    free = 1 + max((size - 1, *(token.id for token in stated.tokens if token.id is not None)))
    numbered = Numbered({}, {})
    for token in stated.tokens:
        found = known(token.content)
        if None not in (found, token.id) and found != token.id:
            raise differing(stated, token, found)
        if found is None and token.id is not None:
            _refuse_taken(stated, token, named(token.id))
        chosen = token.id if found is None else found
        if chosen is None:
            chosen, free = free, free + 1
        (numbered.special if token.special else numbered.plain)[token.content] = chosen
    return numbered


def _refuse_taken(stated: Stated, token: Token, name: str | None) -> None:
    # Sentinels of mT5 have the mark of a space in its vocabulary.
    if name is not None and name.removeprefix(SPACE) != token.content:
        raise ValueError(
            f"the files in {stated.path.parent} say that {shown(token.content)} has the id "
            f"{token.id}, which in the vocabulary is that of {shown(name)}: are they those of "
            "another checkpoint? Save them again with transformers' save_pretrained"
        )


def differing(stated: Stated, token: Token, found: int | None) -> ValueError:
    """What to raise if a vocabulary has a token at another place than is stated."""
    return ValueError(
        f"the files in {stated.path.parent} say that {shown(token.content)} has the id "
        f"{token.id}, and in the vocabulary it has {found}: are they those of another checkpoint? "
        "Save them again with transformers' save_pretrained"
    )


def read_numbered(path: Path) -> dict[str, int]:
    """Tokens and their ids from a `vocab.json`; ValueError unless every id is one token's."""
    content = read_json(path)
    for name, token in content.items():
        if not _is_id(token):
            raise ValueError(f"{path} must map tokens to ids, and {shown(name)} has {shown(token)}")
    if len(set(content.values())) < len(content):
        raise ValueError(f"{path} has several tokens of the same id: fetch it again")
    if fault := unicode_fault("".join(content)):
        raise ValueError(f"{path} has tokens that are not valid Unicode: {fault}")
    return content


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST_IDS


def _of(path: Path, content: Mapping[str, Any]) -> dict[str, Token]:
    """Special tokens by their roles; those of lists by where they stand in them."""
    found: dict[str, Token] = {}
    for key, value in content.items():
        try:
            if value is None:
                continue
            if key in ROLES or (is_token_key(key) and isinstance(value, str | dict)):
                if value != "":
                    found[key] = _token(value)
            elif key in LISTS:
                found |= _several(key, value)
        except _Malformed as error:
            raise _unreadable(path, key, error) from None
    return found


def _rank(name: str) -> int:
    """Roles first, then tokens that a kind of model has, then those of lists."""
    if name in ROLES:
        return ROLES.index(name)
    return len(ROLES) + ("[" in name)


def _several(key: str, value: Any) -> dict[str, Token]:
    """A list of tokens, or an object that names them."""
    if isinstance(value, dict) and key != "additional_special_tokens":
        return {name: _token(token) for name, token in value.items()}
    if not isinstance(value, list):
        raise _Malformed(f"it is {shown(value)}, not a list")
    return {f"{key}[{place}]": _token(token) for place, token in enumerate(value)}


def _by_id(path: Path, config: Mapping[str, Any]) -> list[Token]:
    by_id, key = config.get("added_tokens_decoder"), "added_tokens_decoder"
    found: dict[int, Token] = {}
    try:
        if not isinstance(by_id, dict | None):
            raise _Malformed(f"it is {shown(by_id)}, not an object from ids to tokens")
        for name, value in (by_id or {}).items():
            token = _id(name)
            if token in found:
                raise _Malformed(f"it has the id {token} twice")
            if not isinstance(value, dict):
                raise _Malformed(f"{shown(value)} is no object with 'content'")
            found[token] = _whole(_token(value), token, special=bool(value.get("special")))
    except _Malformed as error:
        raise _unreadable(path, key, error) from None
    return [found[token] for token in sorted(found)]


def _whole(token: Token, number: int, *, special: bool) -> Token:
    """With all of its flags: those that are left out have their usual values."""
    usual = dict.fromkeys(FLAGS, False) | {"normalized": not special}
    return Token(token.content, number, special, {**usual, **token.flags}, is_whole=True)


def _id(name: str) -> int:
    if not (name.isascii() and name.isdecimal() and len(name) < 12 and int(name) < MOST_IDS):
        raise _Malformed(f"it has the key {shown(name)}, not a token id")
    return int(name)


def _in_file(path: Path, special: set[str]) -> list[Token]:
    """The tokens of added_tokens.json, by id."""
    content = read_json(path) if is_there(path) else {}
    for name, token in content.items():
        if not _is_id(token):
            raise _unreadable(path, name, f"it maps to {shown(token)}, not to a token id")
    if len(set(content.values())) < len(content):
        raise _unreadable(path, "", "two tokens have the same id")
    return [
        Token(name, token, name in special, {"normalized": name not in special})
        for name, token in sorted(content.items(), key=lambda item: item[1])
    ]


def _token(value: Any) -> Token:
    """A token from a string, which is special, or from an object."""
    if isinstance(value, str):
        return Token(value, None, True, {"normalized": False})
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise _Malformed(f"{shown(value)} is neither a string nor an object with 'content'")
    for flag, said in value.items():
        if flag not in ("content", "id", "__type", "special", *FLAGS):
            raise _Malformed(f"{shown(value)} has the unknown key {shown(flag)}")
        if flag in ("special", *FLAGS) and not (isinstance(said, int) and said in (0, 1)):
            raise _Malformed(
                f"{flag} of {shown(value['content'])} is {shown(said)}, not true or false"
            )
    flags = {flag: bool(value[flag]) for flag in FLAGS if flag in value}
    return Token(value["content"], None, bool(value.get("special", False)), flags)


def _unreadable(path: Path, key: str, fault: object) -> ValueError:
    return ValueError(
        f"{path} names special tokens in a form that cannot be read: {key[:60]}: {fault} (each "
        "must be a string or an object with 'content', added_tokens_decoder maps ids to such "
        "objects, added_tokens.json tokens to ids)"
    )
