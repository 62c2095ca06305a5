"""Text work that outlives faulty texts, and child processes that are replaced when they die."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import tritonseq
from tritonseq.stages import process as children
from tritonseq.stages.process import Closed, Remote, WorkerDied
from tritonseq.stages.text_worker import TextSetup
from tritonseq.text.encoding import Encoding, Fault, TextEncoder
from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
EMBEDDED = sorted((ROOT / "tritonseq" / "embedded").iterdir())
SUPPORT = ROOT / "tests" / "support"
DEADLINE = 60.0

GOOD = [f"take {n} and {'two ' * (n % 7)}more" for n in range(20)]
# Not Unicode, without tokens, too long, and no text at all.
POISONS = {
    "surrogate": ("a \ud800 b", "the text is not valid Unicode: "),
    "empty": ("", "the text is empty: every text needs at least one token"),
    "long": ("seven " * 3000, r"the text has \d{4} tokens, and .*: shorten it"),
    "number": (7, "the text is 7, not a string"),
    "tokens": (["two", "no such token"], "'(two|no such token)' is no token"),
}


def within_deadline(act: Callable[[], Any]) -> Any:
    """What `act` returns or raises; a failure if it hangs."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((act(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert outcome, "it hangs"
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def wait_for(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return value


def is_running(pid: int) -> bool:
    """Not for what has ended and only waits for its parent to be told."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    return False


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children end by themselves: here none is killed before a test gives up."""
    monkeypatch.setattr(children, "PATIENCE", 2 * DEADLINE)


@pytest.fixture
def remote() -> Iterator[Callable[..., Remote]]:
    """Makes remotes of tests/support/services.py, and closes them."""
    made: list[Remote] = []

    def make(service: str = "act", setup: Any = None, **options: Any) -> Remote:
        made.append(Remote(f"services:{service}", setup, name="the worker", **options))
        return made[-1]

    yield make
    for each in made:
        within_deadline(each.close)


@pytest.fixture(scope="module", params=EMBEDDED, ids=lambda folder: folder.name)
def model(request: pytest.FixtureRequest) -> tritonseq.Model:
    return tritonseq.load(request.param, device="cpu")


def texts_of(model: tritonseq.Model, **how: Any) -> TextEncoder:
    return model.text_job(**how).encoder


class TestTextEncoder:
    def test_a_child_reads_and_writes_as_the_job_does(self, model: tritonseq.Model) -> None:
        job = model.text_job()
        tokens = ["two", "three"] if model.decoder.is_prefix_lm else None
        sources = [*GOOD, tokens] if tokens else GOOD
        rows = job.encoder.ids(sources)
        setup = TextSetup(*model.tokenizer_source, job.encoder.encoding)
        with Remote("tritonseq.stages.text_worker:serve", setup, name="texts") as child:
            assert child.call(("encode", sources)) == rows == job.read(sources)
            assert child.call(("decode", rows)) == model.tokenizer.decode(rows)
            assert child.call(("encode", [])) == child.call(("decode", [])) == []
            faults = child.call(("encode", ["two", "", "two"]))
        assert faults == [rows_of(job, "two"), Fault(faults[1].reason), rows_of(job, "two")]

    @pytest.mark.parametrize("name", POISONS)
    @pytest.mark.parametrize("place", [0, 7, 20])
    def test_one_faulty_text_is_the_only_fault(
        self, model: tritonseq.Model, name: str, place: int
    ) -> None:
        poison, reason = POISONS[name]
        found = texts_of(model).encode([*GOOD[:place], poison, *GOOD[place:]])  # type: ignore[arg-type]
        fault = found.pop(place)
        # Some encoders read any number of tokens; to UniLM unknown tokens are [UNK].
        reads_any = name == "long" and model.text_job().encoder.encoding.room is None
        if reads_any or (name == "tokens" and model.decoder.is_prefix_lm):
            assert fault == model.text_job().encoder.ids([poison])[0]
        else:
            assert isinstance(fault, Fault)
            assert re.match(reason, fault.reason), fault.reason
        assert found == model.text_job().encoder.ids(GOOD)

    def test_options_of_the_job_are_heeded(self) -> None:
        model = tritonseq.load(EMBEDDED[0], device="cpu")
        how = {"prefix": "say: ", "max_source_length": 9}
        rows = model.text_job(**how).encoder.ids(GOOD)
        assert texts_of(model, **how).encode(GOOD) == rows
        assert max(map(len, rows)) == 9
        assert rows != model.text_job(max_source_length=9).encoder.ids(GOOD)
        (fault,) = texts_of(model, **how).encode([["two"]])
        assert fault == Fault(
            "the text is a list of tokens, which takes no prefix and no languages"
        )

    def test_ids_that_cannot_be_decoded_are_a_fault_of_their_row(
        self, model: tritonseq.Model
    ) -> None:
        rows = model.text_job().encoder.ids(GOOD)
        found = texts_of(model).decode([*rows[:3], [None], *rows[3:]])
        fault = found.pop(3)
        assert isinstance(fault, Fault)
        assert fault.reason.startswith("the tokenizer fails at it: ")
        assert found == model.tokenizer.decode(rows)

    def test_a_text_is_as_long_as_there_is_room(self) -> None:
        tokenizer = Tokenizer.from_folder(ROOT / "tritonseq" / "embedded" / "gpt2-words")
        (row,) = tokenizer.rows(["two plus three"])
        short, fits = (
            TextEncoder(tokenizer, Encoding(room=room, remedy="shorten it"))
            for room in (len(row) - 1, len(row))
        )
        assert fits.encode(["two plus three"]) == [row]
        reason = f"the text has {len(row)} tokens, shorten it"
        assert short.encode(["two plus three", "two"])[0] == Fault(reason)

    @pytest.mark.parametrize(
        ("encoding", "message"),
        [
            (Encoding(room=0, remedy="and there is room for 0"), "one token, and there is room"),
            (Encoding(max_length=0), "a limit of 0 tokens leaves no room"),
            (Encoding(src_lang="xx_XX"), "xx_XX"),
        ],
        ids=["room", "limit", "language"],
    )
    def test_what_no_text_can_meet_is_an_error(self, encoding: Encoding, message: str) -> None:
        tokenizer = Tokenizer.from_folder(EMBEDDED[0])
        with pytest.raises(ValueError, match=message):
            TextEncoder(tokenizer, encoding).check()

    def test_errors_of_libraries_are_faults_by_their_type(self) -> None:
        panic = type("PanicException", (BaseException,), {})
        tokenizer = Breaking({"bad": Exception("odd"), "worse": panic("index 7")})
        found = TextEncoder(tokenizer, Encoding()).encode(["a", "bad", "b", "worse"])  # type: ignore[arg-type]
        assert found[::2] == [[1], [1]]
        assert found[1] == Fault("the tokenizer fails at it: Exception: odd")
        assert found[3] == Fault("the tokenizer fails at it: PanicException: index 7")
        # The whole list once, then each of its texts.
        assert tokenizer.calls == [["a", "bad", "b", "worse"], ["a"], ["bad"], ["b"], ["worse"]]

    def test_an_interrupt_is_no_fault(self) -> None:
        tokenizer = Breaking({"bad": KeyboardInterrupt()})
        with pytest.raises(KeyboardInterrupt):
            TextEncoder(tokenizer, Encoding()).encode(["a", "bad"])  # type: ignore[arg-type]


class Breaking:
    """A tokenizer that raises for some texts, and notes what it is asked."""

    def __init__(self, errors: dict[str, BaseException]) -> None:
        self.errors = errors
        self.calls: list[list[str]] = []

    def rows(self, texts: list[str], **_: Any) -> list[list[int]]:
        self.calls.append(list(texts))
        for text in texts:
            if text in self.errors:
                raise self.errors[text]
        return [[1] for _ in texts]


def rows_of(job: Any, text: str) -> list[int]:
    row: list[int] = job.encoder.ids([text])[0]
    return row


class TestDeath:
    def test_the_request_is_repeated_by_another_child(
        self, remote: Callable[..., Remote], tmp_path: Path
    ) -> None:
        worker = remote("count", tmp_path)
        with pytest.warns(RuntimeWarning, match="the worker was killed by SIGKILL") as warned:
            assert worker.call(([5], {5: 2})) == 5
        assert len(warned) == 2
        pid = worker.pid
        assert worker.call(([6], {})) == 6
        assert worker.pid == pid

    def test_the_third_death_is_an_error_and_not_the_end(
        self, remote: Callable[..., Remote], tmp_path: Path
    ) -> None:
        worker = remote("count", tmp_path)
        message = "the worker died 3 times over its work: it was killed by SIGKILL, .*memory"
        with pytest.warns(RuntimeWarning), pytest.raises(WorkerDied, match=message):
            worker.call(([5], {5: 3}))
        assert worker.pid is None
        assert worker.call(([5], {5: 3})) == 5

    @pytest.mark.parametrize(
        ("code", "how"),
        [(-signal.SIGSEGV, "was killed by SIGSEGV"), (7, "ended with exit code 7"), (0, "code 0")],
    )
    def test_it_is_told_how(self, remote: Callable[..., Remote], code: int, how: str) -> None:
        with pytest.raises(WorkerDied, match=f"died 1 times over its work: it .*{how}"):
            remote(attempts=1).call(("die", code))

    def test_a_child_that_dies_idle_is_replaced(self, remote: Callable[..., Remote]) -> None:
        worker = remote()
        worker.ready()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(lambda: not is_running(worker.pid or 0))
        with pytest.warns(RuntimeWarning, match="SIGKILL"):
            assert worker.call(("echo", 1)) == 1

    def test_a_stream_goes_on_with_what_is_left(
        self, remote: Callable[..., Remote], tmp_path: Path
    ) -> None:
        """More deaths than attempts, but never so many at one place."""
        left = list(range(8))
        deaths = {0: 2, 3: 2, 7: 2}
        worker = remote("count", tmp_path)
        found = []
        with pytest.warns(RuntimeWarning):
            for number in worker.stream(lambda: (left, deaths)):
                found.append(number)
                left.remove(number)
        assert found == list(range(8))

    def test_a_stream_that_gets_nowhere_is_an_error(
        self, remote: Callable[..., Remote], tmp_path: Path
    ) -> None:
        worker = remote("count", tmp_path, attempts=2)
        replies = worker.stream(lambda: ([4, 5], {5: 9}))
        with pytest.warns(RuntimeWarning), pytest.raises(WorkerDied, match="died 2 times"):
            for _ in range(9):
                assert next(replies) == 4

    def test_a_stream_ends_if_nothing_is_left(
        self, remote: Callable[..., Remote], tmp_path: Path
    ) -> None:
        left = [1, 2]
        worker = remote("count", tmp_path)
        found = []
        for number in worker.stream(lambda: ([*left, 9], {9: 1}) if left else None):
            left.remove(number)
            found.append(number)
        assert found == [1, 2]


class TestStart:
    def test_an_error_of_the_setup_is_raised(self, remote: Callable[..., Remote]) -> None:
        worker = remote("refuse", "there is no such folder")
        for act in (worker.ready, lambda: worker.call(1), lambda: next(worker.stream(lambda: 1))):
            with pytest.raises(ValueError, match="there is no such folder"):
                act()
            assert worker.pid is None

    @pytest.mark.parametrize(
        ("service", "error"),
        [("no_such_module:f", ModuleNotFoundError), ("services:no_such_function", AttributeError)],
    )
    def test_a_service_that_is_not_there(self, service: str, error: type[Exception]) -> None:
        with Remote(service, None, name="the worker") as worker, pytest.raises(error):
            worker.call(1)

    def test_what_ends_by_itself_is_not_tried_again(
        self, remote: Callable[..., Remote], tmp_path: Path
    ) -> None:
        message = "the worker could not start: it ended with exit code 3"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(WorkerDied, match=message):
                remote("vanish", 3).ready()

    def test_what_is_killed_is(self, remote: Callable[..., Remote]) -> None:
        with (
            pytest.warns(RuntimeWarning) as warned,
            pytest.raises(WorkerDied, match=r"died 3 times .* SIGKILL"),
        ):
            remote("vanish", -signal.SIGKILL).call(1)
        assert len(warned) == 2

    def test_a_setup_that_cannot_be_pickled(self) -> None:
        with pytest.raises((AttributeError, TypeError, ValueError), match=r"pickle|lambda"):
            Remote("services:act", lambda: 0, name="the worker")

    def test_variables_are_those_of_the_parent_and_some_more(
        self, remote: Callable[..., Remote], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OF_THE_PARENT", "here")
        worker = remote(environment={"OF_THE_CHILD": "there"})
        assert worker.call(("variable", "OF_THE_PARENT")) == "here"
        assert worker.call(("variable", "OF_THE_CHILD")) == "there"
        assert "OF_THE_CHILD" not in os.environ

    def test_a_child_for_texts_does_without_torch(self) -> None:
        setup = (EMBEDDED[0], Encoding())
        with Remote("services:texts_and_modules", setup, name="the worker") as worker:
            rows = worker.call(("encode", GOOD))
            assert worker.call(("decode", rows)) == Tokenizer.from_folder(EMBEDDED[0]).decode(rows)
            loaded = worker.call("modules")
        assert "tokenizers" in loaded
        assert not {"torch", "triton", "numpy", "transformers"} & set(loaded)


class TestErrors:
    @pytest.mark.parametrize(
        "error", [ValueError("odd", 7), MemoryError(), KeyError("k"), OSError(28, "full")], ids=repr
    )
    def test_an_error_of_the_handler_is_raised_as_it_is(
        self, remote: Callable[..., Remote], error: Exception
    ) -> None:
        worker = remote()
        with pytest.raises(type(error)) as raised:
            worker.call(("fail", error))
        assert raised.value.args == error.args
        assert "in _fail" in str(raised.value.__cause__)
        pid = worker.pid
        assert worker.call(("echo", "still here")) == "still here"
        assert worker.pid == pid

    def test_an_error_of_torch_is_too(self, remote: Callable[..., Remote]) -> None:
        with pytest.raises(torch.OutOfMemoryError, match="none is left"):
            remote().call(("fail here", "memory"))

    @pytest.mark.parametrize(
        ("kind", "words"), [("unpicklable", "this.*that"), ("awkward", "Awkward: this and that")]
    )
    def test_an_error_that_cannot_travel_comes_in_words(
        self, remote: Callable[..., Remote], kind: str, words: str
    ) -> None:
        worker = remote()
        with pytest.raises(RuntimeError, match=words):
            worker.call(("fail here", kind))
        assert worker.call(("echo", 1)) == 1

    def test_messages_that_cannot_travel(
        self, remote: Callable[..., Remote], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The child has no name for a function of its own, nor the module of a class of ours."""
        here = types.ModuleType("only_here")
        exec("class OnlyHere: pass", here.__dict__)
        monkeypatch.setitem(sys.modules, "only_here", here)
        worker = remote()
        no_name = (AttributeError, pickle.PicklingError)
        with pytest.raises(no_name, match="lambda"):
            worker.call(("function",))
        with pytest.raises(no_name, match="lambda"):
            worker.call(("echo", lambda: 0))
        with pytest.raises(ModuleNotFoundError, match="only_here"):
            worker.call(("echo", here.OnlyHere()))
        assert worker.call(("echo", b"x" * 3_000_000)) == b"x" * 3_000_000


class TestInterrupt:
    def test_a_stream_ends_early_and_later_ones_do(self, remote: Callable[..., Remote]) -> None:
        worker = remote("tick")
        replies = worker.stream(lambda: 5)
        assert [next(replies), next(replies)] == [5, 6]
        thread = threading.Thread(target=worker.interrupt)
        thread.start()
        rest = within_deadline(lambda: list(replies))
        thread.join()
        assert rest == list(range(7, 7 + len(rest)))
        assert within_deadline(lambda: list(worker.stream(lambda: 0))) == []

    def test_it_outlives_the_child(self, remote: Callable[..., Remote]) -> None:
        worker = remote("tick")
        worker.interrupt()
        assert within_deadline(lambda: list(worker.stream(lambda: 0))) == []
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(lambda: not is_running(worker.pid or 0))
        assert within_deadline(lambda: list(worker.stream(lambda: 0))) == []
        assert within_deadline(lambda: list(worker.stream(lambda: 0))) == []

    def test_a_stream_that_is_given_up_does_not_disturb_the_next(
        self, remote: Callable[..., Remote]
    ) -> None:
        worker = remote("tick")
        for start in (0, 1000, 2000):
            replies = worker.stream(lambda start=start: start)
            assert within_deadline(lambda r=replies: [next(r) for _ in range(3)]) == [
                start, start + 1, start + 2,
            ]  # fmt: skip
            replies.close()


class TestEnd:
    def test_closing_leaves_no_process(self, remote: Callable[..., Remote]) -> None:
        worker = remote()
        worker.ready()
        pid = worker.pid
        assert pid is not None
        assert is_running(pid)
        for _ in range(3):
            within_deadline(worker.close)
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        for act in (worker.ready, lambda: worker.call(1), lambda: next(worker.stream(lambda: 1))):
            with pytest.raises(Closed, match="the worker"):
                act()
        assert not is_running(pid)

    def test_closing_a_child_that_works_wakes_its_user(
        self, remote: Callable[..., Remote], tmp_path: Path
    ) -> None:
        worker = remote()

        def close() -> None:
            wait_for((tmp_path / "pid").exists)
            worker.close()

        thread = threading.Thread(target=close)
        thread.start()
        with pytest.raises(Closed, match="closed while it worked"):
            within_deadline(lambda: worker.call(("hang", tmp_path)))
        thread.join(DEADLINE)
        assert not is_running(int((tmp_path / "pid").read_text()))

    def test_what_does_not_end_is_killed(
        self, remote: Callable[..., Remote], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(children, "PATIENCE", 0.1)
        worker = remote()
        worker.ready()
        pid = worker.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        within_deadline(worker.close)
        assert not is_running(pid)

    @pytest.mark.parametrize("work", ["idle", "busy", "starting"])
    def test_no_child_outlives_a_parent_that_is_killed(self, tmp_path: Path, work: str) -> None:
        act = {
            "idle": "print(remote.pid if not remote.ready() else 0, flush=True); time.sleep(600)",
            "busy": "remote.ready(); print(remote.pid, flush=True); remote.call(('hang', folder))",
            "starting": "print(remote.pid, flush=True); os.kill(os.getpid(), 9)",
        }[work]
        code = PARENT.format(support=str(SUPPORT), folder=str(tmp_path), act=act)
        parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        try:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            if work == "busy":
                wait_for((tmp_path / "pid").exists)
        finally:
            parent.kill()
            parent.communicate()
        wait_for(lambda: not is_running(pid))

    def test_a_parent_without_standard_streams_has_children_all_the_same(
        self, tmp_path: Path
    ) -> None:
        code = (
            "import os, sys; sys.path.insert(0, sys.argv[1])\n"
            "from tritonseq.stages.process import Remote\n"
            "[os.close(descriptor) for descriptor in range(3)]\n"
            "with Remote('services:act', None, name='a worker') as worker:\n"
            "    os._exit(7 * (worker.call(('echo', 1)) == 1))"
        )
        support = str(Path(__file__).parents[1] / "support")
        assert subprocess.run([sys.executable, "-c", code, support], timeout=300).returncode == 7

    def test_interrupts_from_the_keyboard_are_the_parents(
        self, remote: Callable[..., Remote]
    ) -> None:
        """From its first moment on; other signals reach it, though its parent may block them."""
        for _ in range(3):
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
            worker = remote()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            pid = worker.pid
            assert pid is not None
            os.kill(pid, signal.SIGINT)
            worker.ready()
            os.kill(pid, signal.SIGINT)
            assert worker.call(("echo", 1)) == 1
            assert worker.pid == pid
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not is_running(pid))
        with pytest.warns(RuntimeWarning, match="SIGTERM"):
            assert worker.call(("echo", 1)) == 1


PARENT = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {support!r})
from tritonseq.stages.process import Remote
folder = Path({folder!r})
remote = Remote("services:act", None, name="the worker")
{act}
"""


class TestPlace:
    def run(self, code: str, *flags: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *flags, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=DEADLINE)

    @pytest.mark.parametrize("flags", [(), ("-I",)], ids=["plain", "isolated"])
    @pytest.mark.parametrize("entry", ["absolute", "relative", "gone"])
    def test_a_child_finds_the_package_of_its_parent(
        self, tmp_path: Path, flags: tuple[str, ...], entry: str
    ) -> None:
        """A copy of it, beside the one that is installed."""
        copy = tmp_path / "copy with spaces" / "tritonseq"
        ignore = shutil.ignore_patterns("embedded", "__pycache__")
        shutil.copytree(ROOT / "tritonseq", copy, ignore=ignore)
        path = copy.parent.name if entry == "relative" else str(copy.parent)
        act = "print(remote.call(('home', 'tritonseq.stages.worker_main')))"
        code = f"import sys; sys.path.insert(0, {path!r})\n"
        code += PARENT.format(support=str(SUPPORT), folder="", act=act)
        if entry == "gone":
            code = code.replace("folder =", f"sys.path.remove({path!r}); folder =")
        done = self.run(code, *flags, cwd=tmp_path)
        assert done.stdout.strip() == str(copy / "stages" / "worker_main.py"), done.stderr

    def test_the_script_of_the_caller_is_not_run_again(self, tmp_path: Path) -> None:
        act = "print(remote.call(('echo', 'once')))"
        script = tmp_path / "script.py"
        script.write_text(PARENT.format(support=str(SUPPORT), folder="", act=act))
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, timeout=DEADLINE
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "once\n", "")

    def test_what_a_child_prints_does_not_reach_stdout(self, tmp_path: Path) -> None:
        act = "remote.call(('say', 'noise'))\nprint('result')"
        done = self.run(PARENT.format(support=str(SUPPORT), folder="", act=act), cwd=tmp_path)
        assert (done.stdout, done.stderr) == ("result\n", "noise\n")
