"""Ray Data on this machine: two worker processes, one of them killed."""

from __future__ import annotations

import asyncio
import socket
import time
from asyncio.subprocess import Process
from pathlib import Path

import pytest

pytest.importorskip("ray.data", reason="needs the extra ray")

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from app import clusters
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


def processes(name: str = "") -> list[psutil.Process]:
    """Ours of that name, and theirs."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and name in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def nothing_is_left(before: set[int]) -> bool:
    """Whether all processes that a cluster started have gone, after a while at most."""
    until = time.monotonic() + 60
    while {process.pid for process in processes()} - before:
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


async def test_a_worker_that_is_killed_costs_nothing(base: str) -> None:
    before = {process.pid for process in processes()}
    found: dict[int, list[Outcome]] = {}
    workers: set[int] = set()
    killed = None
    async for number, outcomes in RaySampler(base, workers=2, seed=3).sample(SHARDS):
        assert number not in found
        found[number] = outcomes
        seen = {process.pid for process in processes("ray::MapWorker")}
        workers |= seen
        if len(found) == 3:
            assert len(seen) == 2
            killed = min(seen)
            victim = psutil.Process(killed)
            victim.kill()
            victim.wait(60)  # until it is gone: the next shard may be there before
        elif killed is not None:
            assert killed not in seen
    assert killed is not None
    assert len(workers) == 3  # the third took the place of the killed one
    assert nothing_is_left(before)

    here = open_local_sampler(base, seed=3)
    assert found == {number: outcomes async for number, outcomes in here.sample(SHARDS)}
    assert RaySampler(base).name == here.name


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Those that processes which drive Ray end with."""
    found: list[int | None] = []
    end = clusters._end

    async def seen(driver: Process) -> int | None:
        found.append(await end(driver))
        return found[-1]

    monkeypatch.setattr(clusters, "_end", seen)
    return found


@pytest.mark.parametrize("until", ["import drive", "raylet", "ray::MapWorker", "a row"])
async def test_cancelling_ends_the_cluster(base: str, codes: list[int | None], until: str) -> None:
    before = {process.pid for process in processes()}
    came = asyncio.Event()

    async def run() -> None:
        async for _ in RaySampler(base, workers=1).sample(SHARDS):
            came.set()

    sampling = asyncio.create_task(run())
    if until == "a row":
        await came.wait()
    while until != "a row" and not processes(until):
        assert not sampling.done()
        await asyncio.sleep(0.02)
    sampling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sampling
    assert codes == [0]  # it was not killed
    assert nothing_is_left(before)


async def test_to_cancel_twice_ends_it_at_once(base: str) -> None:
    before = {process.pid for process in processes()}

    async def run() -> None:
        async for _ in RaySampler(base, workers=1).sample(SHARDS):
            sampling.cancel()

    sampling = asyncio.create_task(run())
    while not sampling.cancelling():
        await asyncio.sleep(0.02)
    sampling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sampling
    assert not processes("import drive")
    assert nothing_is_left(before)


async def test_items_of_megabytes_are_taken_and_may_be_given_up(
    base: str, codes: list[int | None]
) -> None:
    before = {process.pid for process in processes()}
    shards: Shards = {**SHARDS, 16: [Prompt((Message("user", "a " * 4_000_000),))]}
    sampling = asyncio.ensure_future(anext(RaySampler(base, workers=1).sample(shards)))
    while not processes("import drive"):
        await asyncio.sleep(0.02)
    sampling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sampling
    assert codes == [0]
    assert nothing_is_left(before)


async def test_a_process_that_ray_ended_is_told_and_leaves_nothing(base: str) -> None:
    before = {process.pid for process in processes()}

    async def run() -> None:
        async for _ in RaySampler(base, workers=1).sample(SHARDS):
            for process in processes("import drive"):
                process.kill()

    with pytest.raises(ConfigurationError, match="process that drives Ray ended with code -9"):
        await run()
    assert nothing_is_left(before)


async def test_a_base_that_the_workers_cannot_open_is_named(tmp_path: Path) -> None:
    before = {process.pid for process in processes()}
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="does not load as a base model"):
        async for _ in RaySampler(str(tmp_path), workers=1).sample(SHARDS):
            pass
    assert nothing_is_left(before)


async def test_nothing_to_sample_starts_nothing(base: str) -> None:
    before = {process.pid for process in processes()}
    async for _ in RaySampler(base).sample({}):
        raise AssertionError
    assert {process.pid for process in processes()} == before


async def test_an_address_where_nobody_listens_is_named(base: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"no Ray cluster answers at 127.0.0.1:{port}"):
            async for _ in RaySampler(base, address=f"127.0.0.1:{port}").sample(SHARDS):
                pass
