"""A LoRA adapter as GGUF, for an embedded model (package `gguf`, extra `star`).

An adapter that was trained on an embedded model fits the very file that the embedded engine
loads, so nothing is merged or quantized: the engine adds the adapter to its weights as it decodes.
Other bases have no file here; for those there are llama.cpp's own `convert_lora_to_gguf.py` and
`convert_hf_to_gguf.py`, which its package `gguf` does not bring.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from app.errors import ConfigurationError
from app.model_files import ModelName, model_path
from app.model_folders import CACHE, require

# peft's name of a weight: the module that is adapted, and which of the two matrices.
_WEIGHT = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<matrix>[AB])\.weight")
# What an adapter may not be: llama.cpp knows B A x alpha / rank, for linear layers, and no more.
_PLAIN: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
}


def export_adapter(base: str, adapter: Path, out: Path, cache: Path = CACHE) -> None:
    """Write an adapter that was trained on the embedded model `base` to the file `out`.

    Raises `ConfigurationError` that says why it cannot be done.
    """
    require("GGUF", "gguf", "safetensors", "torch", extra="star")
    from gguf import GGUFReader, GGUFWriter

    if base not in get_args(ModelName):
        known = ", ".join(get_args(ModelName))
        raise ConfigurationError(
            f"{base} is no embedded model ({known}): seat it with provider local, or convert it"
            " with llama.cpp's convert_lora_to_gguf.py"
        )
    name: ModelName = next(name for name in get_args(ModelName) if name == base)
    config = _plain_config(adapter)
    reader = GGUFReader(model_path(name, cache))
    architecture = _field(reader, "general.architecture")
    shapes = {tensor.name: tuple(map(int, tensor.shape)) for tensor in reader.tensors}
    tensors = _tensors(adapter, reader, architecture)
    for place, (a, b) in tensors.items():
        if shapes.get(place) != (a.shape[1], b.shape[0]):
            raise ConfigurationError(f"{adapter} is no adapter for {base}: {place} does not fit")
    partial = out.with_name(f"{out.name}.partial")
    writer = GGUFWriter(partial, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    for place, (a, b) in sorted(tensors.items()):
        writer.add_tensor(f"{place}.lora_a", a)
        writer.add_tensor(f"{place}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(out)


def _plain_config(adapter: Path) -> Mapping[str, Any]:
    path = adapter / "adapter_config.json"
    if not path.is_file():
        raise ConfigurationError(f"{adapter} is no adapter: there is no adapter_config.json")
    config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key, plain in _PLAIN.items():
        if (value := config.get(key)) not in plain:
            raise ConfigurationError(f"{adapter} has {key} = {value!r}, which GGUF does not know")
    return config


def _tensors(adapter: Path, reader: Any, architecture: str) -> dict[str, tuple[Any, Any]]:
    """The matrices A (rank, inputs) and B (outputs, rank) by the name that llama.cpp has for the
    weight they adapt."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map
    from safetensors.torch import load_file

    known = next(arch for arch in MODEL_ARCH if MODEL_ARCH_NAMES[arch] == architecture)
    names = get_tensor_name_map(known, _field(reader, f"{architecture}.block_count"))
    found: dict[str, dict[str, Any]] = {}
    for key, tensor in load_file(adapter / "adapter_model.safetensors").items():
        match = _WEIGHT.fullmatch(key)
        place = match and names.get_name(match["module"])
        if match is None or place is None:
            raise ConfigurationError(f"{adapter}: llama.cpp has no name for {key}")
        matrix = tensor.float().numpy()
        if architecture == "llama" and match["matrix"] == "B":
            matrix = _turned(matrix, match["module"], reader)
        found.setdefault(f"{place}.weight", {})[match["matrix"]] = matrix
    return {place: (both["A"], both["B"]) for place, both in found.items()}


def _turned(b: Any, module: str, reader: Any) -> Any:
    """Rows of queries and keys in the order of llama.cpp's Llama: it rotates neighbours, where
    transformers rotates the halves of a head."""
    heads = {"q_proj": "llama.attention.head_count", "k_proj": "llama.attention.head_count_kv"}
    key = heads.get(module.rpartition(".")[2])
    if key is None:
        return b
    outputs, rank = b.shape
    count = _field(reader, key)
    return b.reshape(count, 2, outputs // count // 2, rank).swapaxes(1, 2).reshape(outputs, rank)


def _field(reader: Any, key: str) -> Any:
    return reader.fields[key].contents()
