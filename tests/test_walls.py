"""What may import what, what must stay absent, and whether the wheel stands on its own."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"tritonseq": ROOT / "tritonseq", "kernels": ROOT / "kernels", "models": ROOT / "models"}

# room -> the rooms that it may import, all of them rows above.
ALLOWED: dict[str, set[str]] = {
    "kernels": set(),
    "memory": set(),
    "errors": set(),
    "progress": set(),
    "callers": set(),
    "shown": set(),
    "options": {"callers", "shown"},
    "sentences": {"options"},
    "models": {"callers", "shown", "kernels", "memory"},
    "decoding": {"kernels", "options"},
    "checkpoint": {"callers", "shown", "models"},
    "engine": {"callers", "shown", "kernels", "options", "memory", "decoding"},
    "text": {"sentences", "errors", "shown", "options", "checkpoint"},
    "text_task": {"sentences", "callers", "errors", "options", "decoding", "engine", "text"},
    "model": {
        "sentences", "options", "progress", "decoding", "checkpoint", "engine", "text", "text_task",
    },
    "demo": {"model"},
    "bench": {"kernels", "checkpoint"},
    "stages": {
        "sentences", "callers", "shown", "options", "errors", "progress", "models", "decoding",
        "checkpoint", "engine", "text", "text_task", "model",
    },
    "jobs": {"errors", "progress", "checkpoint", "text", "stages"},
    "cli": {
        "options", "errors", "progress", "models", "decoding", "checkpoint", "text", "text_task",
        "model", "demo", "bench", "stages", "jobs",
    },
    "__main__": {"cli"},
    "__init__": {"options", "decoding", "engine", "model", "stages"},
}  # fmt: skip

MOST_MODULES = 16


def files() -> list[Path]:
    return [path for room in ROOMS.values() for path in sorted(room.rglob("*.py"))]


def module(path: Path) -> str:
    """The name that a file is imported by."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "tritonseq" else ["tritonseq", *parts])


MODULES = {module(path): path for path in files()}


def room(name: str) -> str:
    """The room of a module: what stands behind the package's name."""
    return name.split(".")[1] if "." in name else "__init__"


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, wherever in the file, for types too."""
    name = module(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in MODULES else base)
    return found


GRAPH = {name: (imports(path) & MODULES.keys()) - {name} for name, path in MODULES.items()}


def test_the_rooms_are_a_staircase() -> None:
    above: set[str] = set()
    for name, allowed in ALLOWED.items():
        assert allowed <= above, f"{name} imports {allowed - above}, which stands below it"
        above.add(name)
    assert {room(name) for name in MODULES} == above


@pytest.mark.parametrize("name", ALLOWED)
def test_rooms_import_downwards(name: str) -> None:
    for one in (one for one in MODULES if room(one) == name):
        # `import tritonseq` alone asks for no room.
        used = {room(other) for other in GRAPH[one]} - {name, "__init__"}
        assert used <= ALLOWED[name], f"{one} imports upwards"


def test_no_imports_go_in_a_circle() -> None:
    """Those inside of rooms and those for types alone included."""
    left = {name: {other for other in used if "." in other} for name, used in GRAPH.items()}
    while free := [name for name, used in left.items() if not used & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"a circle among {sorted(left)}"


def test_no_room_is_a_basement() -> None:
    folders = [
        folder
        for top in ("tritonseq", "kernels", "models", "benchmarks", "tests")
        for folder in [ROOT / top, *(ROOT / top).rglob("*/")]
        if folder.is_dir()
    ]
    crowded = {
        folder.relative_to(ROOT).as_posix(): count
        for folder in folders
        if (count := len(list(folder.glob("*.py")))) > MOST_MODULES
    }
    assert crowded == {}


def test_every_package_is_in_the_wheel() -> None:
    """The mapping of kernels/ and models/ keeps setuptools from finding them by itself."""
    listed = re.search(r"packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    assert listed is not None
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(re.findall(r'"([\w.]+)"', listed[1])) == packages


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_imports_transformers_or_the_room_by_its_folder(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"transformers", "kernels", "models"}


def run_fresh(code: str) -> str:
    """Run code in a new interpreter, away from the checkout; returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


LOAD_AND_GENERATE = """
import sys, pathlib, tritonseq
folder = pathlib.Path(tritonseq.__file__).parent / "embedded" / "gpt2-words"
model = tritonseq.load(folder)
model.generate([[1, 2, 3]], num_beams=2, no_repeat_ngram_size=2, max_new_tokens=4)
print(model.generate_text(["two plus two ="])[0])
print("transformers" in sys.modules, "triton" in sys.modules)
"""


def test_transformers_is_absent_after_loading_and_generating() -> None:
    assert run_fresh(LOAD_AND_GENERATE).split("\n")[-2] == "False False"


def test_the_check_of_absence_can_fail() -> None:
    assert run_fresh("import sys, transformers; print('transformers' in sys.modules)") == "True\n"
    assert run_fresh("import sys; from tritonseq import Model; print('torch' in sys.modules)") == (
        "True\n"
    )


TEXT_ALONE = """
import sys, pathlib, tritonseq
from tritonseq.text.tokenizer import Tokenizer
for folder in sorted((pathlib.Path(tritonseq.__file__).parent / "embedded").iterdir()):
    tokenizer = Tokenizer.from_folder(folder)
    rows = tokenizer.rows(["two plus three"])
    assert "two plus three" in tokenizer.decode(rows)[0]
    print(folder.name, "torch" in sys.modules)
"""


def test_texts_do_without_torch() -> None:
    lines = run_fresh(TEXT_ALONE).splitlines()
    assert len(lines) == 5
    assert all(line.endswith(" False") for line in lines)


def private_names(path: Path) -> set[str]:
    """What a file asks torch for that torch calls private, such as `torch._C.f` or `ops.m._f`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{name.name}" for name in node.names]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        for name in names:
            parts = name.split(".") if re.fullmatch(r"[\w.]+", name) else [""]
            hidden = (part for part in parts if part.startswith("_") and part[:2] != "__")
            if parts[0] == "torch" and any(hidden):
                found.add(name)
    return found


def test_private_operators_of_torch_are_asked_for_in_one_file() -> None:
    """And there by name, so that one that is gone is noticed."""
    everywhere = [*files(), *sorted((ROOT / "benchmarks").rglob("*.py"))]
    assert {
        path.relative_to(ROOT): names for path in everywhere if (names := private_names(path))
    } == {}
    mentions = re.compile(r"\"_[a-zA-Z_.]+\"")
    assert mentions.search((ROOT / "kernels" / "private_torch.py").read_text())


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["env", "--help"]])
def test_help_does_without_torch(arguments: list[str]) -> None:
    code = "import sys, tritonseq.cli.main\ntry:\n    tritonseq.cli.main.main({!r})\n"
    code += "except SystemExit:\n    print('torch' in sys.modules)"
    assert run_fresh(code.format(arguments)).splitlines()[-1] == "False"


def test_importing_the_kernels_compiles_nothing() -> None:
    code = "import sys, tritonseq.kernels; print('triton' in sys.modules)"
    assert run_fresh(code) == "False\n"


def test_the_wheel_stands_on_its_own(tmp_path: Path) -> None:
    """Built, unpacked elsewhere, imported from there: code, types and the embedded checkpoint."""
    source = tmp_path / "source"
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(source)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("tritonseq-*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    for member in ("py.typed", "kernels/__init__.py", "models/gpt2.py"):
        assert (site / "tritonseq" / member).exists()
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n" + LOAD_AND_GENERATE
    code += f"assert tritonseq.__file__.startswith({str(site)!r}), tritonseq.__file__\n"
    run_fresh(code)


def test_the_typed_marker_and_the_public_names() -> None:
    import tritonseq

    assert (ROOT / "tritonseq" / "py.typed").exists()
    for name in tritonseq.__all__:
        assert hasattr(tritonseq, name)
        assert name in dir(tritonseq)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = tritonseq.lode  # type: ignore[attr-defined]
