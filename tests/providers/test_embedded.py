"""The embedded engine with the real SmolLM2 model."""

from __future__ import annotations

import asyncio
import hashlib
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app import model_files
from app.domain import Prompt
from app.errors import ConfigurationError, UpstreamError
from app.model_files import ModelFile, ModelName, model_path
from app.providers import embedded
from app.providers.embedded import (
    EmbeddedProvider,
    Engine,
    default_threads,
)
from tests.samples import prompt

MODEL: ModelName = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = model_path(MODEL, tmp_path_factory.mktemp("cache"))
    engine = Engine(path, threads=1, slots=4, context_tokens=512)
    yield engine
    engine.close()


def seat(engine: Engine, temperature: float = 0.0, seed: int = 7) -> EmbeddedProvider:
    return EmbeddedProvider("smollm2", MODEL, engine, temperature, seed)


def short(text: str, tokens: int = 12, temperature: float | None = None) -> Prompt:
    return Prompt(prompt(text).messages, max_tokens=tokens, temperature=temperature)


async def test_a_real_model_replies(engine: Engine) -> None:
    done = await seat(engine).complete(short("Why is the sky blue?", 48))
    assert "sky" in done.text
    assert done.usage is not None
    assert done.usage.output_tokens <= 48


async def test_a_reply_cut_by_max_tokens_says_so(engine: Engine) -> None:
    done = await seat(engine).complete(short("Tell me a long story.", 5))
    assert done.finish_reason == "length"
    assert done.usage is not None
    assert done.usage.output_tokens == 5


async def test_temperature_zero_repeats_itself_and_seeds_differ(engine: Engine) -> None:
    asked = short("Invent a name for a cat.")
    cold = [(await seat(engine).complete(asked)).text for _ in range(2)]
    assert cold[0] == cold[1]
    warm = {(await seat(engine, 1.5, seed).complete(asked)).text for seed in range(4)}
    assert len(warm) > 1


async def test_the_prompt_s_temperature_wins_over_the_seat_s(engine: Engine) -> None:
    asked = short("Invent a name for a cat.", temperature=0.0)
    warm = {(await seat(engine, 1.5, seed).complete(asked)).text for seed in range(3)}
    assert len(warm) == 1


async def test_concurrent_prompts_share_the_batch_and_the_event_loop_goes_on(
    engine: Engine,
) -> None:
    asked = [short(f"Count to {n}.", 24) for n in range(8)]
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    beating = asyncio.ensure_future(beat())
    started = time.monotonic()
    replies = await asyncio.gather(*(seat(engine).complete(p) for p in asked))
    took = time.monotonic() - started
    beating.cancel()
    assert all(reply.text for reply in replies)
    assert beats > took / 0.01 / 10  # a blocked loop would have none


async def test_a_cancelled_prompt_stops_generating(engine: Engine) -> None:
    long = short("Write a very long story about the sea.", 400)
    for _ in range(8):  # twice as many as there are slots: none is kept
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15):
                await seat(engine).complete(long)
    async with asyncio.timeout(15):  # 8 abandoned stories would take half a minute
        assert (await seat(engine).complete(short("Say hi.", 4))).text


async def test_a_prompt_over_the_context_is_refused(engine: Engine) -> None:
    with pytest.raises(UpstreamError, match="longer than the 512 tokens") as caught:
        await seat(engine).complete(short("word " * 2000))
    assert caught.value.kind == "refused_request"


async def test_the_engine_s_own_port_is_locked(engine: Engine) -> None:
    url = engine._server.listening_address
    assert url.startswith("http://127.0.0.1:")
    for path in ("/v1/models", "/props", "/slots"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            await asyncio.to_thread(urllib.request.urlopen, url + path)
        assert caught.value.code == 401
        caught.value.close()


async def test_a_base_model_is_shown_questions_and_answers(engine: Engine) -> None:
    """On SmolLM2's file, run without its chat template as a base model is."""
    base = replace(seat(engine), chat=False)
    done = await base.complete(short("What colour is grass?", 16))
    assert done.text
    assert "Question:" not in done.text


def test_an_engine_can_be_closed_as_soon_as_it_is_open(tmp_path: Path) -> None:
    """It used to wait for ever for a thread of its own that had not begun."""
    for _ in range(3):
        Engine(model_path(MODEL, tmp_path), threads=1, slots=1, context_tokens=256).close()


class TestModelPath:
    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Two packages on the path, each with a part; importing either would fail."""
        for n, part in enumerate((b"first", b"second")):
            package = tmp_path / "site" / f"partly{n}"
            package.mkdir(parents=True)
            (package / "__init__.py").write_text("raise RuntimeError('imported')")
            (package / "model.part").write_bytes(part)
        monkeypatch.syspath_prepend(tmp_path / "site")
        return tmp_path

    def use(self, monkeypatch: pytest.MonkeyPatch, content: bytes, *packages: str) -> None:
        file = ModelFile(
            tuple((package, "model.part") for package in packages),
            install="pip install partly",
            sha256=hashlib.sha256(content).hexdigest(),
        )
        monkeypatch.setattr(model_files, "MODEL_FILES", {"gemma-3-270m": file})

    def test_parts_are_joined_once(self, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.use(monkeypatch, b"firstsecond", "partly0", "partly1")
        path = model_path("gemma-3-270m", package / "cache")
        assert path.read_bytes() == b"firstsecond"
        assert list(path.parent.iterdir()) == [path]
        made = path.stat().st_mtime_ns
        assert model_path("gemma-3-270m", package / "cache").stat().st_mtime_ns == made

    def test_other_content_is_not_loaded(
        self, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.use(monkeypatch, b"something else", "partly0")
        with pytest.raises(ConfigurationError, match="sha256"):
            model_path("gemma-3-270m", package)

    @pytest.mark.parametrize("missing", ["nowhere_to_be_found", "json"])
    def test_a_missing_package_says_what_to_install(
        self, package: Path, monkeypatch: pytest.MonkeyPatch, missing: str
    ) -> None:
        self.use(monkeypatch, b"", missing)
        with pytest.raises(ConfigurationError, match="pip install partly"):
            model_path("gemma-3-270m", package)


@pytest.mark.parametrize(("cores", "threads"), [({0}, 1), ({0, 1}, 1), (set(range(8)), 7)])
def test_a_core_is_left_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, cores: set[int], threads: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: cores, raising=False)
    monkeypatch.setattr(embedded, "_threads_per_core", lambda: 1)
    assert default_threads() == threads
    monkeypatch.setattr(embedded, "_threads_per_core", lambda: 2)
    assert default_threads() <= threads
