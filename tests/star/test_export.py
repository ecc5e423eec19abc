"""Adapters as GGUF, for the real SmolLM2 file and its engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import save_file
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from app.api import create_app
from app.errors import ConfigurationError
from app.model_files import ModelName, model_path
from app.providers.embedded import Engine
from app.star.export import export_adapter
from tests.conftest import settings
from tests.serving import serve

MODEL: ModelName = "smollm2-135m-instruct"
LAYERS, HIDDEN, HEADS, KEY_HEADS, RANK, ALPHA = 30, 576, 9, 3, 4, 8
OUTPUTS = {"q_proj": 576, "k_proj": 192, "v_proj": 192, "o_proj": 576}


def save_adapter(folder: Path, strength: float, **config: object) -> Path:
    """A LoRA adapter with random weights for SmolLM2's attention, as peft writes it."""
    generator = torch.Generator().manual_seed(5)
    weights: dict[str, Any] = {}
    for layer in range(LAYERS):
        for name, outputs in OUTPUTS.items():
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            a = torch.randn(RANK, HIDDEN, generator=generator) / HIDDEN**0.5
            b = torch.randn(outputs, RANK, generator=generator) * strength
            weights |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")
    plain = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))
    return folder


def change(adapter: Path, of: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    from safetensors.torch import load_file

    path = adapter / "adapter_model.safetensors"
    save_file(of(load_file(path)), path)
    return adapter


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "iteration-1"
    adapter = save_adapter(folder / "adapter", 0.3)
    export_adapter(MODEL, adapter, folder / "adapter.gguf")
    return folder / "adapter.gguf"


def test_the_matrices_are_llama_cpp_s(exported: Path) -> None:
    """Against transformers, which reads the other way: from llama.cpp's order to its own."""
    from safetensors.torch import load_file

    reader = GGUFReader(exported)
    said = {key: reader.fields[key].contents() for key in ("general.type", "adapter.type")}
    assert said == {"general.type": "adapter", "adapter.type": "lora"}
    assert reader.fields["adapter.lora.alpha"].contents() == ALPHA
    written = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(written) == 2 * LAYERS * len(OUTPUTS)
    weights = load_file(exported.parent / "adapter" / "adapter_model.safetensors")
    places = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    turned_back = LlamaTensorProcessor()._reverse_permute_weights
    for name, place in places.items():
        key = f"base_model.model.model.layers.7.self_attn.{name}.lora"
        a, b = written[f"blk.7.{place}.weight.lora_a"], written[f"blk.7.{place}.weight.lora_b"]
        if name == "q_proj":
            b = turned_back(b, HEADS, HEADS)
        if name == "k_proj":
            b = turned_back(b, HEADS, KEY_HEADS)
        np.testing.assert_array_equal(a, weights[f"{key}_A.weight"].numpy())
        np.testing.assert_array_equal(b, weights[f"{key}_B.weight"].numpy())


async def test_an_embedded_member_replies_with_its_adapter(exported: Path, tmp_path: Path) -> None:
    still = save_adapter(tmp_path / "still", 0.0)
    await asyncio.to_thread(export_adapter, MODEL, still, tmp_path / "still.gguf")
    row = {"provider": "embedded", "model": MODEL}
    configured = settings(
        database_url=f"sqlite:///{tmp_path}/answers.db",
        board=("base", "still", "mine"),
        members={
            "base": row,
            "still": row | {"adapter": str(tmp_path / "still.gguf")},
            "mine": row | {"adapter": str(exported)},
        },
        scorer="embedded",
        engine={"threads": 1, "slots": 1, "context_tokens": 512},
    )
    async with serve(create_app(configured)) as client:
        asked = {"prompt": "Name a city in France.", "max_tokens": 12}
        document = (await client.post("/answer", json=asked)).json()
    said = {one["member"]: one["text"] for one in document["candidates"]}
    assert said["base"]
    assert said["still"] == said["base"]  # B = 0 changes nothing
    assert said["mine"] != said["base"]
    models = {one["member"]: one["model"] for one in document["candidates"]}
    assert models["base"] == MODEL
    assert models["mine"] == f"{MODEL} + iteration-1/adapter.gguf"


def test_a_base_that_is_not_embedded_has_another_way(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"provider local, or .* convert_lora_to_gguf"):
        export_adapter("Qwen/Qwen3-8B", tmp_path, tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"use_dora": True}, "use_dora = True"),
        ({"use_rslora": True}, "use_rslora = True"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern"),
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_what_gguf_cannot_say_is_refused(
    tmp_path: Path, config: dict[str, object], told: str
) -> None:
    adapter = save_adapter(tmp_path / "a", 0.1, **config)
    with pytest.raises(ConfigurationError, match=told):
        export_adapter(MODEL, adapter, tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    wide = change(
        save_adapter(tmp_path / "wide", 0.1),
        lambda weights: {
            key: torch.zeros(RANK, 64) if "lora_A" in key else value
            for key, value in weights.items()
        },
    )
    with pytest.raises(ConfigurationError, match=r"blk\.0\.attn_.\.weight does not fit"):
        export_adapter(MODEL, wide, tmp_path / "a.gguf")
    strange = change(
        save_adapter(tmp_path / "strange", 0.1),
        lambda weights: weights | {"base_model.model.what.lora_A.weight": torch.zeros(1, 1)},
    )
    with pytest.raises(ConfigurationError, match=r"no name for base_model\.model\.what"):
        export_adapter(MODEL, strange, tmp_path / "a.gguf")
    with pytest.raises(ConfigurationError, match=r"no adapter_config\.json"):
        export_adapter(MODEL, tmp_path, tmp_path / "a.gguf")


def test_an_engine_says_what_does_not_load(tmp_path: Path) -> None:
    path = model_path(MODEL, tmp_path)
    with pytest.raises(ConfigurationError, match=r"nowhere\.gguf, an adapter, is no file"):
        Engine(path, threads=1, slots=1, context_tokens=256, adapter=tmp_path / "nowhere.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but no more")
    with pytest.raises(ConfigurationError, match=r"with .*broken\.gguf cannot be loaded"):
        Engine(path, threads=1, slots=1, context_tokens=256, adapter=tmp_path / "broken.gguf")
