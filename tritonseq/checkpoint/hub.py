"""The Hugging Face Hub: from the name of a checkpoint to its files on this machine."""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonseq.shown import shown

from .files import find_config
from .state_dict import ADAPTER_CONFIG, refuse_adapter
from .weights import FORMATS, index_of, is_weight_file, shard_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# What is read beside the weights: the configuration, and the tokenizers of the known families.
SMALL_FILES = (
    "config.json",
    "bert_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab-src.json",
    "vocab-tgt.json",
    "vocab.txt",
    "prophetnet.tokenizer",
    "spiece.model",
    "sentencepiece.bpe.model",
    "target_vocab.json",
    "source.spm",
    "target.spm",
    "dict.txt",
    # It tells an adapter from a checkpoint.
    ADAPTER_CONFIG,
)


def snapshot(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    check: Callable[[Path], object] = bool,
) -> Path:
    """The folder of a checkpoint: a local one as it is, else one downloaded from the Hub.

    A local file with weights, .bin or .safetensors, is returned as it is too.

    Only what tritonseq reads is fetched: configuration, tokenizer, and one format of weights.
    huggingface_hub does the work, with its cache, progress bars and environment variables;
    without a network, or with `local_files_only`, what it has in its cache is used. `check` is
    handed the folder when its small files are there, and raises ValueError for one whose weights
    nobody needs.

    Raises:
        ValueError: if there is no such folder, repository or revision, no access to it, or
            nothing in it that tritonseq can read.
        ConnectionError: if the Hub cannot be reached and the cache does not have everything.
    """
    path = _local("name_or_path", name_or_path)
    if is_weight_file(path):
        return path
    if path.is_dir():
        if find_config(path) is None:
            refuse_adapter(path)
            raise ValueError(f"the folder {path} has no config.json: it holds no checkpoint")
        return path
    _refuse_file(path)
    if path.suffix in (".bin", ".safetensors"):
        raise ValueError(f"there is no file {path}")
    name = str(name_or_path)
    with _plain_errors(name, revision, local_files_only):
        return _Repository(name, revision, cache_dir, token, local_files_only).fetch_checkpoint(
            check
        )


def tokenizer_folder(
    name_or_path: str | Path,
    *,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a tokenizer: a local one as it is, else the small files of one on the Hub.

    Raises what `snapshot` raises.
    """
    path = _local("tokenizer", name_or_path)
    if path.is_dir():
        return path
    _refuse_file(path)
    name = str(name_or_path)
    with _plain_errors(name, None, local_files_only):
        return _Repository(name, None, cache_dir, token, local_files_only).fetch(SMALL_FILES)


@dataclass
class _Repository:
    """One repository on the Hub at one revision."""

    name: str
    revision: str | None
    cache_dir: str | Path | None
    token: str | bool | None
    local_files_only: bool

    def __post_init__(self) -> None:
        _check("revision", self.revision, "a branch, tag or commit", str, type(None))
        _check("cache_dir", self.cache_dir, "a folder", str, os.PathLike, type(None))
        _check("token", self.token, "a token, True or False", str, bool, type(None))

    def fetch_checkpoint(self, check: Callable[[Path], object]) -> Path:
        """Fetch the small files, and the best format of weights that the repository has."""
        folder = self.fetch(SMALL_FILES)
        if find_config(folder) is None:
            refuse_adapter(folder)
            raise ValueError(f"{self.name!r} on the Hub has no config.json")
        check(folder)
        for weights in FORMATS:
            folder = self.fetch([weights, index_of(Path(weights)).name])
            if (folder / weights).is_file():
                return folder
            if index_of(folder / weights).is_file():
                return self.fetch(shard_names(index_of(folder / weights)))
        raise ValueError(
            f"{self.name!r} has no weights named {' or '.join(FORMATS)}; "
            "if a download of it was interrupted, run it again with a network"
        )

    def fetch(self, files: Sequence[str]) -> Path:
        """The folder with those of `files` that there are."""
        # A fresh interpreter that only imports tritonseq has no use for the HTTP client.
        from huggingface_hub import snapshot_download

        folder = Path(
            snapshot_download(
                self.name,
                revision=self.revision,
                cache_dir=self.cache_dir,
                token=self.token,
                local_files_only=self.local_files_only,
                allow_patterns=list(files),
            )
        )
        # The folder has the name of its commit: later calls stay on it, whatever is pushed.
        self.revision = folder.name
        return folder


def _local(argument: str, name: Any) -> Path:
    """The path that a folder or a Hub id is looked for at; ValueError if it can be neither."""
    _check(argument, name, "a folder or a Hub id", str, os.PathLike)
    if not name or not isinstance(os.fspath(name), str):
        raise ValueError(f"{argument} is {name!r}: pass a folder or a Hub id")
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # a ~ of no user is a name like others
        path = path.expanduser()
    try:
        path.exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ValueError(
            f"{argument} is {shown(str(name))}, of {len(str(name))} characters: no folder and no "
            "Hub id has such a name"
        ) from None
    return path


def _check(argument: str, value: Any, wanted: str, *types: type) -> None:
    if not isinstance(value, types):
        raise ValueError(f"{argument} is {shown(value)}: pass {wanted}")


def _refuse_file(path: Path) -> None:
    if path.is_file():
        raise ValueError(f"{path} is a file: pass the folder that it is in")


@contextlib.contextmanager
def _plain_errors(name: str, revision: str | None, local_files_only: bool) -> Iterator[None]:
    """Say in one sentence what went wrong on the Hub and what to do about it."""
    from huggingface_hub import errors

    # The client's transport moved from httpx to httpx2; its own errors derive from either.
    transport_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
        yield
    except errors.HFValidationError as error:
        raise ValueError(
            f"{name!r} is neither a folder nor a Hub id, which reads 'gpt2' or 'owner/model'"
        ) from error
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{name!r} is gated: ask for access on its page on the Hub, then pass token= "
            "or run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{name!r} is neither a folder nor a repository on the Hub; if it is a private one, "
            "pass token= or run `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{name!r} has no revision {revision!r} on the Hub") from error
    except errors.LocalTokenNotFoundError as error:
        raise ValueError("token=True, but none is stored: run `hf auth login`") from error
    except errors.LocalEntryNotFoundError as error:
        if local_files_only or isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            reason = "the network is switched off (local_files_only or HF_HUB_OFFLINE)"
        else:
            reason = f"the Hub cannot be reached ({error.__cause__})"
        raise ConnectionError(
            f"{name!r} is not, or not completely, in the local cache, and {reason}"
        ) from error
    except (transport_error, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the disk's own fault, and its own words
        raise ConnectionError(
            f"the download of {name!r} stopped; run it again, files that are complete are kept: "
            f"{error}"
        ) from error
