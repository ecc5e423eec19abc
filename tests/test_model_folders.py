from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from app.errors import ConfigurationError
from app.model_folders import base_folder, fetch, require


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert base_folder(str(tmp_path)) == fetch(str(tmp_path)) == tmp_path


def test_what_is_neither_folder_nor_on_the_hub_is_said_plainly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match=r"nobody/nothing is neither a folder nor"):
        base_folder("nobody/nothing")


def test_a_missing_package_is_named_with_its_extra() -> None:
    require("this test", "json")
    with pytest.raises(ConfigurationError, match=r"needs no_such_package: scripts/install star"):
        require("this test", "no_such_package", extra="star")


def test_an_embedded_model_becomes_a_base_once(tmp_path: Path) -> None:
    folder = base_folder("smollm2-135m-instruct", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"]) == ("llama", 30)
    assert "quantization_config" not in config
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert base_folder("smollm2-135m-instruct", tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
