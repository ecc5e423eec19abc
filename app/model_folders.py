"""Weights to score with or to train from, as a folder in the form of `save_pretrained`.

They come from a folder, from a model hub, or from an embedded model, whose GGUF file is made into
safetensors once and kept in the cache.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from app.errors import ConfigurationError
from app.model_files import MODEL_FILES, ModelName, model_path

TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
WEIGHTS_FILES = (*TOKENIZER_FILES, "*.safetensors")
CACHE = Path.home() / ".cache" / "starboard"
# A system text that no template writes by itself.
MARK = "7f3a9c"


def require(what: str, *packages: str, extra: str = "local") -> None:
    """Raise `ConfigurationError` that names the extra, if a package of it is not installed."""
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise ConfigurationError(
                f"{what} needs {package}: pip install 'starboard[{extra}]'"
            ) from error


def fetch(model: str, revision: str | None = None, patterns: Sequence[str] = WEIGHTS_FILES) -> Path:
    """The folder of a model: `model` itself, or the hub's copy of the files that match.

    A hub id is downloaded into the hub's cache on first use (HF_HUB_OFFLINE=1 forbids it).
    Files in subfolders are left alone: they are other formats. Raises `ConfigurationError`.
    """
    from huggingface_hub import snapshot_download

    if Path(model).is_dir():
        return Path(model)
    try:
        folder = snapshot_download(
            model, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"]
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{model} is neither a folder nor a model that the hub has for us:"
            f" {type(error).__name__}"
        ) from error
    return Path(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own bars and reports: we show our own, and a head that is new is
    meant to be new."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def best_device() -> str:
    """cuda, mps or cpu, the first there is."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def takes_system(tokenizer: Any) -> bool:
    """Whether system text reaches the model: some templates refuse it, some drop it."""
    from jinja2 import TemplateError

    turns = [("system", MARK), ("user", "hello"), ("assistant", "hello")]
    chat = [{"role": role, "content": content} for role, content in turns]
    try:
        return MARK in tokenizer.apply_chat_template(chat, tokenize=False)
    except TemplateError:
        return False


def base_folder(model: str, cache: Path = CACHE) -> Path:
    """The folder of a base model: a folder, a hub id, or the name of an embedded model.

    An embedded model is dequantized to float32 on first use (SmolLM2: half a minute, 540 MB) and
    kept under `cache`. Raises `ConfigurationError`.
    """
    for name in get_args(ModelName):
        if model == name:
            return _from_gguf(name, cache)
    return fetch(model)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that a transformers trainer left there whole: it writes
    `trainer_state.json` last, and removes the one before only then."""

    def step(path: Path) -> int:
        return int(path.name.removeprefix("checkpoint-"))

    for path in sorted(folder.glob("checkpoint-*"), key=step, reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(path)
    return None


def weights_sha256(folder: Path) -> str:
    """A hash of all safetensors of a model."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _from_gguf(model: ModelName, cache: Path) -> Path:
    file = MODEL_FILES[model]
    target = cache / f"{model}-{file.sha256[:12]}"
    if target.is_dir():
        return target
    require(f"{model} as a base", "transformers", "torch", "gguf", extra="star")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = model_path(model, cache)
    options = {"gguf_file": source.name, "local_files_only": True}
    read = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **options)  # nosec B615 # local_files_only
    # What was read from GGUF refuses to be saved or trained; a model built anew does not.
    del read.config.quantization_config
    made = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    made.load_state_dict(read.state_dict())
    made.tie_weights()
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    try:
        made.save_pretrained(partial)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, **options)  # nosec B615 # local_files_only
        tokenizer.save_pretrained(partial)
        origin = {"model": model, "gguf_sha256": file.sha256}
        (partial / "origin.json").write_text(json.dumps(origin), encoding="utf-8")
        partial.rename(target)
    except OSError:
        if not target.is_dir():  # unless another process was first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target
