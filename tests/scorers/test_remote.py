"""Reward models behind vLLM, TEI and SGLang: what is asked, what is understood, what is refused."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.domain import ATTRIBUTES, Attributes, Completion, Failure, ScalarReward
from app.errors import ConfigurationError, UpstreamError, as_failure, boundary
from app.providers.http import Http
from app.scorers import Scorer
from app.scorers.remote import RemoteScorer
from app.settings import RemoteScorerSpec
from app.wiring import Engines, build_scorer
from tests.conftest import settings
from tests.fakes.faults import Fault
from tests.fakes.pooling import DEFAULT_OUTPUTS, PoolingFake, SglangFake, TeiFake, VllmFake
from tests.fakes.wire import UPSTREAM_CANARY
from tests.matrix import report
from tests.samples import prompt
from tests.scorers.tiny import ASSISTANT, BOS, USER, chat, save_decoder, save_encoder

SERVERS: dict[str, type[PoolingFake]] = {"vllm": VllmFake, "tei": TeiFake, "sglang": SglangFake}
REPLY = Completion("Air scatters blue light.", "stop", "m")
FIVE = Attributes(*DEFAULT_OUTPUTS)
PERMUTED = ("verbosity", "coherence", "helpfulness", "complexity", "correctness")
each_server = pytest.mark.parametrize("server", list(SERVERS))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tokenizer, which serves as the model's name too."""
    return str(save_decoder(tmp_path_factory.mktemp("model")))


@pytest.fixture
async def stack() -> Any:
    async with AsyncExitStack() as opened:
        yield opened


async def remote(fake: PoolingFake, http: Http, model: str, **options: Any) -> RemoteScorer:
    """The scorer that the settings describe, as the service builds it."""
    fake.models = (model,)
    row = {
        "kind": "remote",
        "server": next(name for name, kind in SERVERS.items() if type(fake) is kind),
        "base_url": fake.base_url,
        "model": model,
        "head": "attributes",
        "api_key_env": "REWARD_KEY",
        **options,
    }
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("REWARD_KEY", fake.api_key or "")
        ours = settings(scorer=row)
        engines = Engines(ours.engine, AsyncExitStack())
        scorer = await build_scorer(ours.ladder[0], ours, http, engines, {})
    assert isinstance(scorer, RemoteScorer)
    return scorer


@contextmanager
def refused(match: str) -> Iterator[None]:
    with pytest.raises(UpstreamError, match=match) as caught:
        yield
    assert (caught.value.kind, caught.value.retryable) == ("bad_reply", False)


# --- what is understood ------------------------------------------------------------------------


@each_server
async def test_five_attributes(server: str, http: Http, model: str) -> None:
    async with SERVERS[server]() as fake:
        scorer = await remote(fake, http, model)
        score = await scorer.score(prompt(), REPLY)
        assert (score.outcome, score.note, scorer.info.scale) == (FIVE, None, "helpsteer")
        if server == "tei":  # tells no tokens
            assert score.usage is None
        else:
            assert score.usage is not None
            assert score.usage.input_tokens > 0 == score.usage.output_tokens
        await scorer.ping()


@each_server
async def test_attributes_in_another_order(server: str, http: Http, model: str) -> None:
    async with SERVERS[server]() as fake:
        fake.labels = PERMUTED
        fake.outputs = [getattr(FIVE, name) for name in PERMUTED]
        scorer = await remote(fake, http, model, labels=PERMUTED)
        assert (await scorer.score(prompt(), REPLY)).outcome == FIVE


@each_server
async def test_a_line_to_the_scale(server: str, http: Http, model: str) -> None:
    async with SERVERS[server]() as fake:
        fake.outputs = [0.1, 0.2, 0.3, 0.4, -0.1]
        scorer = await remote(fake, http, model, factor=10, offset=0.5)
        outcome = (await scorer.score(prompt(), REPLY)).outcome
    assert isinstance(outcome, Attributes)
    assert outcome.coherence == pytest.approx(3.5)
    assert outcome.verbosity == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("server", "route"),
    [("vllm", "classify"), ("vllm", "pooling"), ("vllm", "score"), ("tei", None), ("sglang", None)],
)
async def test_a_scalar_is_raw(server: str, route: str | None, http: Http, model: str) -> None:
    options = {"route": route} if route else {}
    async with SERVERS[server]() as fake:
        fake.outputs, fake.labels = [-19.875], ["LABEL_0"]
        scorer = await remote(fake, http, model, head="scalar", **options)
        score = await scorer.score(prompt(), REPLY)
        assert score.outcome == ScalarReward(-19.875)
        assert (
            fake.requests[-1].path == f"/{route or ('predict' if server == 'tei' else 'classify')}"
        )


@pytest.mark.parametrize("server", ["vllm", "sglang"])
async def test_armorm(server: str, http: Http, model: str) -> None:
    async with SERVERS[server]() as fake:
        fake.outputs = [0.656, 0.672, 0.796, 0.376, 0.36, *[9.0] * 14]
        fake.labels = [f"LABEL_{n}" for n in range(19)]
        score = await (await remote(fake, http, model, head="armorm")).score(prompt(), REPLY)
    assert isinstance(score.outcome, Attributes)
    assert score.outcome.helpfulness == pytest.approx(2.78)
    assert score.outcome.verbosity == pytest.approx(1.30)


# --- what is asked -----------------------------------------------------------------------------


async def test_vllm_applies_its_own_template(http: Http, model: str) -> None:
    async with VllmFake() as fake:
        scorer = await remote(fake, http, model, base_url=f"{fake.base_url}/v1")
        await scorer.score(prompt("Why?", "Be brief."), REPLY)
    assert fake.requests[-1].sent == {
        "model": model,
        "use_activation": False,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": REPLY.text},
        ],
    }


@pytest.mark.parametrize(("server", "field"), [("vllm", "input"), ("sglang", "input_ids")])
async def test_tokens_are_those_of_the_models_template(
    server: str, field: str, http: Http, model: str
) -> None:
    options = {"tokenizer": model} if server == "vllm" else {}
    async with SERVERS[server]() as fake:
        scorer = await remote(fake, http, model, max_tokens=60, **options)
        short = await scorer.score(prompt("Why?"), REPLY)
        whole = chat((USER, "Why?"), (ASSISTANT, REPLY.text))
        assert fake.requests[-1].sent[field] == whole
        long = await scorer.score(prompt("Why? " * 20), REPLY)
        whole = chat((USER, "Why? " * 20), (ASSISTANT, REPLY.text))
        assert fake.requests[-1].sent[field] == [BOS, *whole[-59:]]
    assert short.note is None
    assert long.note == f"scored a part: {len(whole) - 60} of {len(whole)} tokens did not fit"


@pytest.mark.parametrize("server", ["vllm", "tei"])
async def test_a_pair_is_prompt_and_reply(server: str, http: Http, model: str) -> None:
    options = {"route": "score"} if server == "vllm" else {}
    async with SERVERS[server]() as fake:
        fake.outputs = [1.5]
        scorer = await remote(fake, http, model, head="scalar", **options)
        await scorer.score(prompt("Why?", "Be brief."), REPLY)
        sent = fake.requests[-1].sent
    pair = sent["inputs"] if server == "tei" else [sent["text_1"], sent["text_2"]]
    assert pair == ["Be brief.\n\nWhy?", REPLY.text]


# --- the traps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["attributes", "scalar", "armorm"])
@pytest.mark.parametrize("server", ["vllm", "sglang", "tei"])
async def test_hidden_states_are_no_score(server: str, head: str, http: Http, model: str) -> None:
    async with SERVERS[server]() as fake:
        fake.fail("hidden_states")
        scorer = await remote(fake, http, model, head=head)
        with refused("4,096 hidden states .* (vLLM|TEI|SGLang)"):
            await scorer.score(prompt(), REPLY)


async def test_hidden_states_of_each_token_are_no_score(http: Http, model: str) -> None:
    async with VllmFake() as fake:
        fake.fail("a_row_per_token")
        scorer = await remote(fake, http, model, route="pooling")
        with refused("12 rows, one for each token, .* pooling type LAST"):
            await scorer.score(prompt(), REPLY)


@each_server
async def test_the_head_of_another_kind_is_named(server: str, http: Http, model: str) -> None:
    async with SERVERS[server]() as fake:
        scorer = await remote(fake, http, model, head="scalar")
        with refused("5 outputs where 1 belong"):
            await scorer.score(prompt(), REPLY)


async def test_probabilities_are_no_scores(http: Http, model: str) -> None:
    async with VllmFake() as fake:
        fake.fail("probabilities")
        scorer = await remote(fake, http, model)
        with refused("softmax"):
            await scorer.score(prompt(), REPLY)


async def test_vllms_label_gives_a_wrong_order_away(http: Http, model: str) -> None:
    async with VllmFake() as fake:
        fake.labels = PERMUTED
        scorer = await remote(fake, http, model)
        with refused("another order"):
            await scorer.score(prompt(), REPLY)


@pytest.mark.parametrize(
    ("server", "fault"),
    [
        pytest.param(server, fault, id=f"{server}-{fault}")
        for server, kind in SERVERS.items()
        for fault in kind.FAULTS
    ],
)
async def test_every_fault_is_typed(server: str, fault: Fault, http: Http, model: str) -> None:
    async with SERVERS[server]() as fake:
        scorer = await remote(fake, http, model)
        fake.fail(fault.name)
        outcome: object
        try:
            async with asyncio.timeout(0.4 if fault.kind == "timeout" else 5):
                with boundary("remote"):
                    outcome = (await scorer.score(prompt(), REPLY)).outcome
        except TimeoutError:
            outcome = Failure("timeout", "late", retryable=True)
        except UpstreamError as error:
            outcome = as_failure(error)
        report("scorer", f"remote {server}", fault.name, getattr(outcome, "kind", "scored"))
        if fault.kind is None:
            assert outcome == FIVE
            return
        assert isinstance(outcome, Failure)
        assert (outcome.kind, outcome.retryable) == (fault.kind, fault.retryable)
        assert ("retry after" in outcome.message) == (fault.retry_after_s is not None)
        assert UPSTREAM_CANARY not in outcome.message
        assert str(fake.api_key) not in outcome.message


# --- ping --------------------------------------------------------------------------------------


async def test_a_ping_tells_a_server_without_the_model(http: Http, model: str) -> None:
    async with VllmFake() as vllm, SglangFake() as sglang, TeiFake() as tei:
        for fake in (vllm, sglang):
            scorer = await remote(fake, http, model)
            fake.models = ("another",)
            with pytest.raises(UpstreamError, match="no model"):
                await scorer.ping()
        scorer = await remote(tei, http, model)
        tei.kind = "reranker"
        await scorer.ping()
        tei.kind = "embedding"
        with pytest.raises(UpstreamError, match="sequence classifier"):
            await scorer.ping()


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"labels": ["a", "b", "c", "d", "e"]}, "labels must be"),
        ({"route": "score"}, "gives one number"),
        ({"route": "score", "head": "scalar", "tokenizer": "t"}, "plain text"),
        ({"server": "tei", "tokenizer": "t"}, "plain text"),
        ({"server": "tei", "route": "pooling"}, "route = 'pooling' is vLLM's"),
    ],
)
async def test_settings_that_do_not_fit_are_refused(
    options: Any, match: str, http: Http, model: str
) -> None:
    async with VllmFake() as fake:
        with pytest.raises(ConfigurationError, match=match):
            await remote(fake, http, model, **options)


async def test_a_tokenizer_without_a_template_is_refused(http: Http, tmp_path: Path) -> None:
    folder = str(save_encoder(tmp_path, ATTRIBUTES))
    async with SglangFake() as fake:
        with pytest.raises(ConfigurationError, match="no chat template"):
            await remote(fake, http, folder)


async def test_a_remote_scorer_needs_neither_torch_nor_transformers(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    async with VllmFake() as fake:
        scorer: Scorer = await remote(fake, http, "some/model")
        assert (await scorer.score(prompt(), REPLY)).outcome == FIVE
        assert not math.isnan(scorer.info.resolution)
    async with SglangFake() as fake2:
        with pytest.raises(ConfigurationError, match="scripts/install local"):
            await remote(fake2, http, "some/model")


def test_the_key_of_a_server_comes_from_the_variable_its_row_names() -> None:
    (spec,) = settings(
        scorer={
            "kind": "remote",
            "server": "vllm",
            "base_url": "http://h",
            "model": "m",
            "head": "scalar",
        }
    ).ladder
    assert isinstance(spec, RemoteScorerSpec)
    assert spec.api_key is None
