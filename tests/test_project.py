"""What holds for the whole project: no code from data, few imports at start, a package with its model, sound links."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_moe
from mlx_moe import tokenizer

ROOT = Path(__file__).parent.parent
SOURCES = [path for package in ("cli", "cluster", "mlx_moe") for path in sorted((ROOT / package).rglob("*.py"))]
DOCUMENTS = [
    ROOT / name
    for name in (
        "README.md",
        "CHANGELOG.md",
        ".github/CONTRIBUTING.md",
        ".github/SECURITY.md",
        "bench/README.md",
        "cluster/DESIGN.md",
        "mlx_moe/DESIGN.md",
    )
]
HEAVY = (
    "mlx",
    "numpy",
    "grpc",
    "zeroconf",
    "cryptography",
    "tokenizers",
    "jinja2",
    "prompt_toolkit",
    "torch",
    "transformers",
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "marshal", "shelve", "yaml", "dill"}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile", "__import__")


def test_the_command_line_starts_without_heavy_imports() -> None:
    script = f"import sys, cli.app; print([m for m in {HEAVY} if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_the_api_is_what_it_says() -> None:
    for name in mlx_moe.__all__:
        assert getattr(mlx_moe, name).__name__.rpartition(".")[2] == name
        assert name in dir(mlx_moe)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mlx_moe.nothing
    assert tokenizer.Tokenizer.__name__ == "Tokenizer"


def test_bench_says_what_it_needs_where_that_is_not_installed() -> None:
    hidden = "import sys; sys.modules['mlx_lm'] = None; import bench.synthetic"
    result = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 1
    assert result.stderr == f"bench needs mlx_lm, of the extra dev: {sys.executable} -m pip install -e '.[dev]'\n"


@pytest.mark.parametrize("package", ["cli", "cluster", "mlx_moe"])
def test_packages_say_that_they_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_the_embedded_model_stays_small() -> None:
    files = list((ROOT / "mlx_moe" / "demo").iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {file.name for file in files}
    assert sum(file.stat().st_size for file in files) <= 8 * 10**6


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    for path, _, anchor in (link.partition("#") for link in links if "://" not in link):
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name} links to {path}"
        assert not anchor or anchor in anchors(target), f"{document.name} links to {path}#{anchor}"


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
