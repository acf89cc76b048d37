"""Other formats: recognizes weights that are not safetensors, by file name or first bytes, and says the cure."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

_PYTORCH = (".bin", ".pt", ".pth", ".ckpt")
_GGUF = ".gguf"

_BEGINNINGS = {
    b"version ": "a Git LFS pointer to the file, not the file: `git lfs pull` downloads it",
    b"<": "a web page, not weights: the download failed; download it again",
    b'{"': "JSON text, not weights: the download failed; download it again",
    b"PK\x03\x04": "a PyTorch file under another name, which is not read; download the model's safetensors files",
    b"GGUF": "a GGUF file under another name, which is not read; download the model's safetensors files",
}


def by_beginning(beginning: bytes) -> str:
    """Return what a file named .safetensors really is, and the cure; "" if its first bytes do not tell."""
    return next((text for start, text in _BEGINNINGS.items() if beginning.lstrip().startswith(start)), "")


def beside(directory: Path) -> str:
    """Return which unsupported format a directory's weights have, and the cure; "" if it has none of them."""
    found = sorted(path.name for path in directory.iterdir() if path.suffix in (*_PYTORCH, _GGUF))
    if weights := [name for name in found if not name.endswith(_GGUF)]:
        return (
            f"its weights are PyTorch files ({weights[0]}), which are not read: convert them (pip install torch "
            f"transformers): {_conversion(directory)}"
        )
    if found:
        return (
            f"its weights are in GGUF ({found[0]}), which is not read: download the original that it was made from, or "
            f"a conversion of it for MLX, as its model card names them: `moe-cluster pull OWNER/NAME`"
        )
    return ""


def _conversion(directory: Path) -> str:
    source, target = json.dumps(str(directory)), json.dumps(f"{directory.name}-safetensors")
    script = (
        f"from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; a, b = {source}, {target}; "
        f'M.from_pretrained(a, dtype="auto").save_pretrained(b); T.from_pretrained(a).save_pretrained(b)'
    )
    return f"python3 -c {shlex.quote(script)}"
