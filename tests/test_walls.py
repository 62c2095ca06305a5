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

# file or room -> what of ours it may import. Everything points downwards.
LEAVES = ("checks", "combinations", "env", "options", "outputs")
LEAVES += ("buffers", "english", "json_files", "memory", "tasks", "trie_tables", "unilm_names")
LEAVES += ("containers", "openmp", "pickle_scan", "progress", "surroundings")
LEAVES += ("text_growth", "tokenizer_classes", "tokenizer_keys", "vocabularies")
ALLOWED: dict[str, set[str]] = {
    "kernels": {"kernels"},
    "models": {"models", "kernels", "cache", "callers", "memory", "shown"},
    "cache": {"buffers", "memory"},
    "protocol": {"cache"},
    **{leaf: set() for leaf in LEAVES},
    **{unit: {"shown"} for unit in ("checks", "containers", "json_files", "tokenizer_keys")},
    "id_rows": {"containers", "shown"},
    "options": {"callers", "shown"},
    "prompts": {"id_rows"},
    "config": {"callers", "checks", "combinations", "options"},
    "stopping": {"hypotheses"},
    "flags": {"kernels"},
    "graphs": {"kernels"},
    "hypotheses": {"kernels"},
    "constraints": {"kernels", "hypotheses"},
    "fused": {"kernels", "constraints", "hypotheses"},
    "warpers": {"kernels", "hypotheses", "constraints"},
    "trie": {"id_rows", "trie_tables"},
    "prefixes": {"kernels", "hypotheses", "constraints", "trie"},
    "processors": {"hypotheses", "config", "constraints", "fused", "prefixes", "trie", "warpers"},
    "search": {"kernels", "hypotheses", "not_finite", "outputs", "processors", "stopping"},
    "beams": {
        "kernels", "fused", "hypotheses", "not_finite", "outputs", "processors", "stopping",
        "search",
    },
    "unilm_search": {
        "kernels", "beams", "hypotheses", "outputs", "processors", "search", "stopping",
    },
    "recipe": {"beams", "config", "outputs", "processors", "search", "stopping", "trie",
               "unilm_search"},
    "not_finite": {"models"},
    "lengths": {"config", "prompts", "protocol"},
    "plan": {"buffers", "cache", "hypotheses", "search"},
    "engine": {
        "buffers", "cache", "flags", "graphs", "hypotheses", "not_finite", "outputs", "prompts",
        "protocol", "search",
    },
    "engines": {"kernels", "engine", "openmp", "plan", "search", "surroundings"},
    "slots": {
        "buffers", "cache", "config", "engine", "engines", "hypotheses", "lengths", "plan",
        "prompts", "protocol", "recipe", "search", "trie",
    },
    "refill": {"engine", "engines", "outputs", "slots"},
    "generate": {
        "config", "engine", "engines", "outputs", "plan", "protocol", "recipe", "slots",
    },
    "pickles": {"pickle_scan"},
    "weights": {"json_files", "pickle_scan", "pickles"},
    "adapters": {"config_files", "json_files"},
    "as_made": set(),
    "live": {"adapters", "as_made", "weights"},
    "tying": {"models", "weights"},
    "wrapped": {"models", "weights"},
    "config_files": {"json_files"},
    "hub": {"adapters", "config_files", "weights"},
    "special_tokens": {"json_files", "tokenizer_keys"},
    "fast_vocabulary": {"json_files", "special_tokens", "text_growth"},
    "bert_vocabulary": {"fast_vocabulary", "json_files", "special_tokens"},
    "sentencepieces": {"json_files", "special_tokens", "vocabularies"},
    "roberta_pieces": {
        "fast_vocabulary", "json_files", "sentencepieces", "special_tokens", "vocabularies",
    },
    "marian_vocabulary": {"sentencepieces", "special_tokens", "vocabularies"},
    "languages": {"vocabularies"},
    "wordpieces": {"fast_vocabulary", "unilm_tokens", "vocabularies"},
    "tokenizer_pipelines": {
        "bert_vocabulary", "fast_vocabulary", "languages", "special_tokens", "tokenizer_keys",
    },
    "tokenizer_families": {
        "bert_vocabulary", "fast_vocabulary", "languages", "marian_vocabulary", "roberta_pieces",
        "sentencepieces", "special_tokens", "tokenizer_classes", "tokenizer_keys",
        "tokenizer_pipelines", "vocabularies",
    },
    "tokenizer_files": {
        "shown", "config_files", "fast_vocabulary", "json_files", "languages", "marian_vocabulary",
        "special_tokens", "tokenizer_classes", "tokenizer_families", "tokenizer_keys",
        "unilm_families", "vocabularies", "wordpieces",
    },
    "text": {"containers", "id_rows", "languages", "tokenizer_files", "vocabularies"},
    "devices": {"models"},
    "placement": {"models", "weights"},
    "unilm_tensors": {"models", "unilm_names", "weights"},
    "unilm_families": {"unilm_names"},
    "unilm_tokens": {"callers", "json_files"},
    "unilm_checkpoint": {
        "unilm_families", "unilm_names", "unilm_tensors", "unilm_tokens", "weights",
    },
    "fingerprints": {"hub", "json_files"},
    "origin": {"checkpoint", "fingerprints", "models", "placement"},
    "checkpoint": {
        "adapters", "config_files", "devices", "json_files", "live", "models", "placement",
        "tying", "unilm_checkpoint", "weights", "wrapped",
    },
    "request": {
        "config", "containers", "engines", "generate", "id_rows", "lengths", "outputs", "plan",
        "prompts", "recipe", "refill", "slots", "stopping", "trie",
    },
    "encoding": {"containers", "shown", "text"},
    "found": {"config", "outputs"},
    "text_job": {
        "callers", "config", "containers", "encoding", "found", "lengths", "outputs", "request",
        "text",
    },
    "model": {
        "checkpoint", "config", "engines", "generate", "hub", "lengths", "live", "origin",
        "outputs", "progress", "request", "stopping", "surroundings", "text", "text_job", "trie",
    },
    **{task: {"english", "tasks"} for task in ("clock", "dates", "numerals", "words")},
    "demo": {"clock", "dates", "model", "numerals", "tasks", "words"},
    "cli_unilm": {"devices", "json_files", "text"},
    "cli_generate": {
        "cli_checkpoint", "cli_files", "cli_unilm", "model", "stages", "standard_streams",
        "text_job",
    },
    "bench": {"bench", "devices", "kernels"},
    "stages": {
        "stages", "config", "containers", "encoding", "fingerprints", "found", "json_files",
        "model", "models", "not_finite", "openmp", "outputs", "plan", "progress", "request",
        "text", "text_job",
    },
    "standard_streams": {"stages"},
    "cli_values": {"checks"},
    "cli_fastseq": set(),
    "cli_flags": {"cli_fastseq", "cli_unilm", "cli_values", "config", "stages"},
    "cli_rules": {"checks", "cli_fastseq", "stages"},
    "cli_checkpoint": {"config_files", "hub", "json_files", "models"},
    "cli_files": {
        "checks", "cli_checkpoint", "cli_fastseq", "cli_unilm", "cli_values", "stages",
        "standard_streams", "text",
    },
    "cli": {
        "bench", "cli_fastseq", "cli_files", "cli_flags", "cli_generate", "cli_rules", "cli_unilm",
        "demo", "env", "stages", "standard_streams",
    },
    "__main__": {"cli"},
    "__init__": {"model", "config", "outputs", "stages", "trie"},
}  # fmt: skip


def files() -> list[Path]:
    return [path for room in ROOMS.values() for path in sorted(room.rglob("*.py"))]


def unit(path: Path) -> str:
    """The room of a kernel or model; in tritonseq the folder, else the file itself."""
    room, name = path.relative_to(ROOT).parts[:2]
    return Path(name).stem if room == "tritonseq" else room


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, wherever in the file."""
    folders = path.relative_to(ROOT).parts[:-1]
    package = ".".join(folders if folders[0] == "tritonseq" else ("tritonseq", *folders))
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = package + (f".{base}" if base else "")
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def ours(module: str) -> str | None:
    """The unit that a module name belongs to; None for other people's."""
    parts = module.split(".")
    if parts[0] != "tritonseq":
        return None
    if len(parts) == 1:
        return "__init__"
    own = ROOT / "tritonseq" / parts[1]
    known = own.with_suffix(".py").exists() or (own / "__init__.py").exists() or parts[1] in ROOMS
    return parts[1] if known else None


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_dependencies_run_downwards(path: Path) -> None:
    name = unit(path)
    assert name in ALLOWED, f"{path.name} is new: say in ALLOWED what it may import"
    used = {u for module in imports(path) if (u := ours(module)) is not None} - {"__init__"}
    assert used - {name} <= ALLOWED[name], f"{path.name} imports upwards"


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_file_imports_transformers_or_the_room_by_its_folder(path: Path) -> None:
    roots = {module.split(".")[0] for module in imports(path)}
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
    assert len(lines) == 4
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
