"""The real huggingface_hub client, in its own process, against a small Hub on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

import tritonseq
from tritonseq.checkpoint.hub import SMALL_FILES, snapshot, tokenizer_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Files = dict[str, bytes]

# Contents differ: the client keeps equal ones only once.
SMALL: Files = {"config.json": b"{}", "vocab.json": b"vocabulary", "merges.txt": b"merges"}
# What repositories also hold and is not read here.
IDLE: Files = {
    "README.md": b"idle",
    "tf_model.h5": b"idle",
    "flax_model.msgpack": b"idle",
    "model.fp16.safetensors": b"idle",
    "onnx/config.json": b"idle",
    "onnx/model.safetensors": b"idle",
    "training_args.bin": b"idle",
}
SAFETENSORS = {"model.safetensors": b"safe"}
PICKLE = {"pytorch_model.bin": b"pickle"}


def shards(name: str) -> Files:
    stem, suffix = name.rsplit(".", 1)
    parts = {f"{stem}-{i:05}-of-00003.{suffix}": b"part %d" % i for i in (1, 2, 3)}
    weight_map = {f"weight.{i}": part for i, part in enumerate(parts)}
    return {**parts, f"{name}.index.json": json.dumps({"weight_map": weight_map}).encode()}


@dataclass
class Repository:
    """Branches with their files, and how the server should behave."""

    branches: dict[str, Files]
    token: str | None = None
    gated: bool = False
    fault: Callable[[str], int | None] | None = None
    """For the GET of a file: the bytes after which the connection breaks, or None."""

    def commit(self, revision: str) -> tuple[str, Files] | None:
        """The files at a branch or commit, by the commit's id."""
        for branch, files in self.branches.items():
            sha = digest(repr(sorted(files.items())).encode())
            if revision in (branch, sha):
                return sha, files
        return None


@dataclass
class Hub:
    """The repositories of one server and the requests that it saw."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """`(method, path)`, for files `("GET", name)`."""
    ranges: list[str] = field(default_factory=list)
    url: str = ""

    def files_sent(self) -> list[str]:
        return sorted(name for method, name in self.requests if method == "GET" and name[0] != "/")


class Handler(BaseHTTPRequestHandler):
    """As much of the Hub's protocol as a download needs."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/models/(.+?)(?:/(revision|tree)/([^/]+))?", path):
            name, what, revision = found.groups()
            if commit := self._commit(name, revision or "main"):
                self.hub.requests.append((self.command, path))
                self._send(json.dumps(self._listing(name, what, *commit)).encode())
        elif found := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            name, revision, file = found.groups()
            if commit := self._commit(name, revision):
                self.hub.requests.append((self.command, file))
                self._file(self.hub.repositories[name], *commit, file)
        else:
            self._refuse(404, "EntryNotFound")

    def _commit(self, name: str, revision: str) -> tuple[str, Files] | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._refuse(404, "RepoNotFound")
        elif repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}":
            self._refuse(401, "RepoNotFound")
        elif (commit := repository.commit(revision)) is None:
            self._refuse(404, "RevisionNotFound")
        else:
            return commit
        return None

    def _listing(self, name: str, what: str | None, sha: str, files: Files) -> Any:
        if what == "tree":
            return [
                {"type": "file", "path": path, "size": len(body), "oid": digest(body)}
                for path, body in files.items()
            ]
        return {"id": name, "sha": sha, "siblings": [{"rfilename": path} for path in files]}

    def _file(self, repository: Repository, sha: str, files: Files, file: str) -> None:
        if repository.gated:
            self._refuse(403, "GatedRepo")
        elif file not in files:
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": sha})
        else:
            body, cut = files[file], None
            if self.command == "GET" and repository.fault is not None:
                cut = repository.fault(file)
            self._send(body, {"X-Repo-Commit": sha, "ETag": f'"{digest(body)}"'}, cut)

    def _send(
        self, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        start = 0
        if asked := self.headers.get("Range"):
            self.hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[start:cut])
            self.close_connection = cut is not None

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"X-Error-Code": code, "Content-Length": "0", **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()


def digest(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    hub = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def hub(server: Hub) -> Hub:
    """A server without repositories."""
    server.repositories, server.requests, server.ranges = {}, [], []
    return server


CLIENT = """
import json, sys
from tritonseq.checkpoint import hub

for line in sys.stdin:
    arguments = json.loads(line)
    function = getattr(hub, arguments.pop("function", "snapshot"))
    try:
        answer = ["folder", str(function(**arguments))]
    except Exception as error:
        answer = [type(error).__name__, str(error)]
    print(json.dumps(answer), flush=True)
"""


class Process:
    """An interpreter that calls the hub when told to: the client reads its settings once."""

    def __init__(self, home: Path, **env: str) -> None:
        clean = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HF_", "HUGGING_FACE")) and not key.lower().endswith("_proxy")
        }
        settings = {
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_ETAG_TIMEOUT": "5",
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            env=clean | settings | env,
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, **arguments: Any) -> list[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        bound = threading.Timer(120, self.process.kill)
        bound.start()
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        bound.cancel()
        answer: list[str] = json.loads(line)
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def processes(
    server: Hub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Process]]:
    """The client with a network, without one, switched off, and with a token of its own."""
    home = tmp_path_factory.mktemp("home")
    with contextlib.ExitStack() as stack:
        processes = {
            # The discard port: nothing answers.
            "unplugged": Process(home, HF_ENDPOINT="http://127.0.0.1:9"),
            "online": Process(home, HF_ENDPOINT=server.url),
            "offline": Process(home, HF_ENDPOINT=server.url, HF_HUB_OFFLINE="1"),
            "known": Process(home, HF_ENDPOINT=server.url, HF_TOKEN="hf_secret"),
        }
        for process in processes.values():
            stack.callback(process.close)
        yield processes


@dataclass
class Client:
    """Calls `snapshot`, or another `function`, with a cache that is new in every test."""

    processes: dict[str, Process]
    cache: Path

    def __call__(self, name: str, process: str = "online", **options: Any) -> list[str]:
        """`["folder", path]` or `[type, message]` of an error."""
        arguments = {"name_or_path": name, "cache_dir": str(self.cache), **options}
        return self.processes[process].call(**arguments)

    def fetch(self, name: str, process: str = "online", **options: Any) -> Path:
        """The folder, of a call that has to succeed."""
        kind, text = self(name, process, **options)
        assert kind == "folder", text
        return Path(text)


@pytest.fixture
def client(processes: dict[str, Process], hub: Hub, tmp_path: Path) -> Client:
    return Client(processes, tmp_path)


def contents(folder: Path) -> Files:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("weights", "others"),
    [
        (SAFETENSORS, PICKLE),
        (shards("model.safetensors"), PICKLE),
        (SAFETENSORS, shards("pytorch_model.bin")),
        (PICKLE, {}),
        (shards("pytorch_model.bin"), {}),
    ],
    ids=["safetensors", "shards", "safetensors beside shards", "pickle", "pickled shards"],
)
def test_life_of_a_download(hub: Hub, client: Client, weights: Files, others: Files) -> None:
    """What is needed is fetched once, and serves later calls with and without a network."""
    hub.repositories["owner/tiny"] = Repository({"main": {**SMALL, **IDLE, **weights, **others}})
    folder = client.fetch("owner/tiny")
    index = {name: body for name, body in others.items() if name.endswith(".index.json")}
    assert contents(folder).items() >= (SMALL | weights).items()
    assert contents(folder).items() <= (SMALL | weights | index).items()
    assert hub.files_sent() == sorted(contents(folder))

    hub.requests.clear()
    assert client.fetch("owner/tiny") == folder
    assert hub.requests
    assert hub.files_sent() == []

    hub.requests.clear()
    assert client.fetch("owner/tiny", local_files_only=True) == folder
    assert client.fetch("owner/tiny", "offline") == folder
    assert client.fetch("owner/tiny", "unplugged") == folder
    assert hub.requests == []


def test_older_name_of_the_configuration(hub: Hub, client: Client) -> None:
    files = {"bert_config.json": b"{}", "vocab.txt": b"[PAD]", **PICKLE}
    hub.repositories["owner/old"] = Repository({"main": {**files, **IDLE}})
    assert contents(client.fetch("owner/old")) == files


def test_a_tokenizer_comes_without_weights(hub: Hub, client: Client) -> None:
    hub.repositories["owner/words"] = Repository({"main": {**SMALL, **IDLE, **SAFETENSORS}})
    folder = client.fetch("owner/words", function="tokenizer_folder")
    assert contents(folder) == SMALL
    assert hub.files_sent() == sorted(SMALL)
    assert client.fetch("owner/words", "unplugged", function="tokenizer_folder") == folder
    for name, expected in {
        "owner/none": "neither a folder nor a repository on the Hub",
        "a/b/c": "neither a folder nor a Hub id",
    }.items():
        kind, message = client(name, function="tokenizer_folder")
        assert kind == "ValueError"
        assert expected in message
    kind, message = client("owner/words2", "offline", function="tokenizer_folder")
    assert kind == "ConnectionError"
    assert "the network is switched off" in message


def test_name_of_one_part_and_the_usual_cache(hub: Hub, client: Client) -> None:
    hub.repositories["tiny"] = Repository({"main": {**SMALL, **SAFETENSORS}})
    folder = client.fetch("tiny", cache_dir=None)
    assert contents(folder) == SMALL | SAFETENSORS
    assert not folder.is_relative_to(client.cache)
    assert client("tiny", local_files_only=True)[0] == "ConnectionError"


def test_revisions(hub: Hub, client: Client) -> None:
    old, new = {**SMALL, "model.safetensors": b"old"}, {**SMALL, "model.safetensors": b"new"}
    repository = hub.repositories["tiny"] = Repository({"main": new, "v1": old})
    assert contents(client.fetch("tiny")) == new
    assert contents(client.fetch("tiny", revision="v1")) == old
    commit = repository.commit("v1")
    assert commit is not None
    assert client.fetch("tiny", revision=commit[0]).name == commit[0]
    kind, message = client("tiny", revision="v2")
    assert kind == "ValueError"
    assert "'tiny' has no revision 'v2'" in message


class MovingRepository(Repository):
    """Its main branch moves on as soon as a request has asked what it points to."""

    def commit(self, revision: str) -> tuple[str, Files] | None:
        found = super().commit(revision)
        if revision == "main":
            self.branches = {"main": self.branches["next"], "former": self.branches["main"]}
        return found


def test_a_push_during_a_download_mixes_nothing(hub: Hub, client: Client) -> None:
    first, second = {**SMALL, **shards("model.safetensors")}, {**SMALL, **PICKLE}
    hub.repositories["tiny"] = MovingRepository({"main": first, "next": second})
    assert contents(client.fetch("tiny")) == first


def test_tokens(hub: Hub, client: Client, tmp_path: Path) -> None:
    hub.repositories["owner/private"] = Repository(
        {"main": {**SMALL, **SAFETENSORS}}, token="hf_secret"
    )
    kind, message = client("owner/private")
    assert kind == "ValueError"
    assert "neither a folder nor a repository on the Hub" in message
    assert "token=" in message
    assert client("owner/private", token="hf_wrong")[0] == "ValueError"
    kind, message = client("owner/private", token=True)
    assert kind == "ValueError"
    assert "none is stored" in message
    folder = client.fetch("owner/private", token="hf_secret")
    again = client.fetch("owner/private", "known", cache_dir=str(tmp_path / "other"))
    assert contents(again) == contents(folder) == SMALL | SAFETENSORS


def test_what_the_hub_refuses(hub: Hub, client: Client) -> None:
    hub.repositories["owner/gated"] = Repository({"main": {**SMALL, **SAFETENSORS}}, gated=True)
    hub.repositories["owner/empty"] = Repository({"main": {**SMALL, **IDLE}})
    hub.repositories["owner/lora"] = Repository({"main": {"adapter_config.json": b"{}"}})
    hub.repositories["owner/bare"] = Repository({"main": {**SAFETENSORS, **PICKLE}})
    for name, expected in {
        "owner/none": "'owner/none' is neither a folder nor a repository on the Hub",
        "owner/gated": "'owner/gated' is gated: ask for access",
        "owner/empty": "no weights named model.safetensors or pytorch_model.bin",
        "owner/lora": "holds an adapter (LoRA) and no whole checkpoint",
        "owner/bare": "'owner/bare' on the Hub has no config.json",
    }.items():
        kind, message = client(name)
        assert kind == "ValueError"
        assert expected in message


def test_not_cached(hub: Hub, client: Client) -> None:
    for answer in (client("tiny", local_files_only=True), client("tiny", "offline")):
        assert answer[0] == "ConnectionError"
        assert "'tiny' is not, or not completely, in the local cache" in answer[1]
        assert "the network is switched off" in answer[1]
    kind, message = client("tiny", "unplugged")
    assert kind == "ConnectionError"
    assert "the Hub cannot be reached" in message
    assert hub.requests == []


def test_broken_connection_is_resumed(hub: Hub, client: Client) -> None:
    """The client writes in pieces of 10 MiB: the second request asks for what follows the first."""
    large = bytes(range(256)) * (12 * 2**12)
    cuts = [11 * 2**20]
    hub.repositories["tiny"] = Repository(
        {"main": {**SMALL, "model.safetensors": large}},
        fault=lambda file: cuts.pop() if cuts and file == "model.safetensors" else None,
    )
    answer = client("tiny")
    if answer[0] == "ConnectionError":
        # Up to some version the client leaves it to the next call to resume.
        answer = client("tiny")
    assert answer[0] == "folder"
    assert (Path(answer[1]) / "model.safetensors").read_bytes() == large
    assert hub.ranges == ["bytes=10485760-"]


def test_failed_download_is_completed_by_the_next_call(hub: Hub, client: Client) -> None:
    repository = hub.repositories["tiny"] = Repository(
        {"main": {**SMALL, **SAFETENSORS}},
        fault=lambda file: 2 if file == "model.safetensors" else None,
    )
    kind, message = client("tiny")
    assert kind == "ConnectionError"
    assert "download of 'tiny' stopped; run it again" in message
    kind, message = client("tiny", local_files_only=True)
    assert kind == "ConnectionError"
    assert "not completely" in message

    hub.requests.clear()
    repository.fault = None
    assert contents(client.fetch("tiny")) == SMALL | SAFETENSORS
    assert "model.safetensors" in hub.files_sent()


def test_local_folders(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert snapshot(tmp_path) == snapshot(str(tmp_path)) == tmp_path
    (tmp_path / "bare").mkdir()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds an adapter .* merge the adapter into its base"):
        snapshot(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"bare has no config\.json"):
        snapshot(tmp_path / "bare")
    for call in (snapshot, tokenizer_folder):
        with pytest.raises(ValueError, match=r"config\.json is a file: pass the folder"):
            call(tmp_path / "config.json")
    assert tokenizer_folder(tmp_path / "bare") == tmp_path / "bare"


def test_local_files(tmp_path: Path) -> None:
    """Weights may be named; what training leaves beside them, and shards, are none."""
    for name in ("model.3.bin", "tuned.safetensors"):
        (tmp_path / name).touch()
        assert snapshot(tmp_path / name) == snapshot(str(tmp_path / name)) == tmp_path / name
    for name in ("optim.3.bin", "training_args.bin", "model-00001-of-00002.safetensors", "a.h5"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match="is a file: pass the folder"):
            snapshot(tmp_path / name)


@pytest.mark.parametrize("name", ["bert_config.json", "unilm1-base-cased-config.json"])
def test_configurations_by_other_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        snapshot(tmp_path)
    (tmp_path / name).write_text("{}")
    assert snapshot(tmp_path) == tmp_path


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "a/b/c", "-gpt2", "gpt 2", "~/none"])
def test_neither_folder_nor_id(name: str) -> None:
    with pytest.raises(ValueError, match="neither a folder nor a Hub id"):
        snapshot(name)


@pytest.mark.parametrize("name", [None, 5, 3.0, True, [], b"x", "", "a" * 5000])
def test_what_is_no_name_at_all(tmp_path: Path, name: Any) -> None:
    with pytest.raises(ValueError, match=r"^name_or_path is .* a folder or a Hub id|no Hub id"):
        snapshot(name)
    with pytest.raises(ValueError, match=r"^tokenizer is .* a folder or a Hub id|no Hub id"):
        tokenizer_folder(name)


@pytest.mark.parametrize("option", ["revision", "cache_dir", "token"])
@pytest.mark.parametrize("value", [3.0, b"x", []])
def test_what_the_hub_cannot_be_asked_with(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{option} is .*: pass "):
        snapshot("owner/model", local_files_only=True, **{option: value})


def test_every_file_that_a_tokenizer_reads_is_fetched() -> None:
    """And counted in the checksum by which a job knows its model."""
    named = re.compile(r'"([\w.]+\.(?:txt|model|spm|json))"')
    folder = Path(tritonseq.__file__).parent
    read = {
        name
        for path in (folder / "text").glob("*.py")
        for name in named.findall(path.read_text(encoding="utf-8"))
    }
    assert "vocab.txt" in read
    assert read <= set(SMALL_FILES)


def test_an_empty_name_is_not_the_folder_that_one_is_in() -> None:
    for take in (tritonseq.load, tokenizer_folder, snapshot):
        with pytest.raises(ValueError, match="is '': pass a folder or a Hub id"):
            take("")
