"""Ray Data on this machine: two worker processes, one of them killed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray.data", reason="needs the extra ray")

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from app.domain import Message, Prompt
from app.errors import ConfigurationError
from app.star.clusters import RaySampler
from app.star.sampling import Outcome, Shards, open_local_sampler
from tests.scorers.tiny import BOS, END, PAD, TEMPLATE, VOCABULARY, save_tokenizer

SHARDS: Shards = {
    number: [
        Prompt(
            (Message("user", f"{number} and {place} make"),),
            max_tokens=120,
            temperature=0.8 if place % 2 else 0.0,
            sample=place,
        )
        for place in range(8)
    ]
    for number in range(16)
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama with random weights that hardly ever ends by itself."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=END,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder, TEMPLATE + "{% if add_generation_prompt %}<assistant>{% endif %}")
    return str(folder)


def workers_below() -> set[int]:
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if "ray::MapWorker" in " ".join(process.cmdline()):
                found.add(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


async def test_a_worker_that_is_killed_costs_nothing(base: str) -> None:
    found: dict[int, list[Outcome]] = {}
    workers: set[int] = set()
    killed = None
    async for number, outcomes in RaySampler(base, workers=2, seed=3).sample(SHARDS):
        assert number not in found
        found[number] = outcomes
        seen = workers_below()
        workers |= seen
        if killed is None and len(seen) == 2:
            killed = min(seen)
            victim = psutil.Process(killed)
            victim.kill()
            victim.wait(60)  # until it is gone: the next shard may be there before
        elif killed is not None:
            assert killed not in seen
    assert killed is not None
    assert len(workers) == 3  # the third took the place of the killed one

    here = open_local_sampler(base, seed=3)
    assert found == {number: outcomes async for number, outcomes in here.sample(SHARDS)}
    assert RaySampler(base).name == here.name


async def test_a_base_that_the_workers_cannot_open_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="does not load as a base model"):
        async for _ in RaySampler(str(tmp_path), workers=1).sample(SHARDS):
            pass
