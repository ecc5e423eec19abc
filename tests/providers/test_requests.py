"""What each adapter sends, and the few things that only one of them does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from google.genai import types

from app.domain import NOTHING, Message, Prompt, Usage
from app.errors import ConfigurationError, UpstreamError
from app.providers import Provider
from app.providers.anthropic import open_anthropic
from app.providers.google import google_role, open_google
from app.providers.google_generativeai import open_google_generativeai
from app.providers.http import MAX_BODY_BYTES, Http, completion, decoded, open_http, post_json
from app.providers.mistral import MistralProvider
from app.providers.openai_compatible import OpenAICompatibleProvider
from tests.fakes.anthropic import AnthropicFake
from tests.fakes.faults import Fault, status
from tests.fakes.google import GoogleFake, candidate, content_reply
from tests.fakes.mistral import MistralFake
from tests.fakes.openai_compatible import OpenAICompatibleFake
from tests.fakes.server import FakeServer
from tests.fakes.wire import Recorded, Reply
from tests.samples import prompt

TALK = Prompt(
    (
        Message("system", "Be brief."),
        Message("user", "One?"),
        Message("assistant", "1"),
        Message("user", "Two?"),
    ),
    max_tokens=64,
    temperature=0.5,
)


@pytest.fixture
async def claude() -> AsyncIterator[AnthropicFake]:
    async with AnthropicFake() as fake:
        yield fake


@pytest.fixture
async def google() -> AsyncIterator[GoogleFake]:
    async with GoogleFake() as fake:
        yield fake


def open_for(fake: FakeServer, http: Http) -> Provider:
    key, url, model = str(fake.api_key), fake.base_url, fake.models[0]
    match fake:
        case AnthropicFake():
            return open_claude(fake, http, model)
        case GoogleFake():
            return open_google("g", model, api_key=key, base_url=url, http=http)
        case _:
            return MistralProvider("m", model, f"{url}/v1", key, http)


def open_claude(fake: AnthropicFake, http: Http, model: str) -> Provider:
    return open_anthropic(
        "claude", model, api_key=str(fake.api_key), base_url=fake.base_url, http=http
    )


async def test_claude_is_sent_turns_and_system(claude: AnthropicFake, http: Http) -> None:
    done = await open_claude(claude, http, "claude-sonnet-4-6").complete(TALK)
    sent = claude.requests[-1].sent
    assert sent["system"] == "Be brief."
    assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant", "user"]
    assert (sent["temperature"], sent["max_tokens"]) == (0.5, 64)
    assert (done.text, done.dropped_parameters) == (AnthropicFake.default_reply, ())
    assert done.usage is not None


async def test_claude_without_system_or_temperature_sends_neither(
    claude: AnthropicFake, http: Http
) -> None:
    done = await open_claude(claude, http, "claude-sonnet-5-5").complete(prompt())
    assert {"system", "temperature"}.isdisjoint(claude.requests[-1].sent)
    assert done.dropped_parameters == ()


async def test_a_newer_claude_is_not_sent_a_temperature_and_that_is_reported(
    claude: AnthropicFake, http: Http
) -> None:
    done = await open_claude(claude, http, "claude-sonnet-5-5").complete(TALK)
    assert done.dropped_parameters == ("temperature",)
    assert len(claude.requests) == 1


async def test_a_claude_that_refuses_its_temperature_is_asked_again_without(
    claude: AnthropicFake, http: Http
) -> None:
    claude.fail("temperature_deprecated_400")
    done = await open_claude(claude, http, "claude-sonnet-4-6").complete(TALK)
    assert done.dropped_parameters == ("temperature",)
    assert ["temperature" in request.sent for request in claude.requests] == [True, False]


async def test_no_package_retries_by_itself(
    claude: AnthropicFake, google: GoogleFake, http: Http
) -> None:
    for fake in (claude, google):
        fake.fail("unavailable_503")
    key, url = str(google.api_key), google.base_url
    gemma = open_google("gemma", "gemma-3-27b-it", api_key=key, base_url=url, http=http)
    legacy = open_google_generativeai(
        "legacy", "gemma-3-27b-it", api_key=key, base_url=url, timeout_s=5
    )
    for provider in (open_claude(claude, http, "claude-sonnet-5-5"), gemma, legacy):
        with pytest.raises(UpstreamError, match="503"):
            await provider.complete(prompt())
    assert (len(claude.requests), len(google.requests)) == (1, 2)


@pytest.mark.parametrize(
    ("model", "system", "first"),
    [
        ("gemma-3-27b-it", None, "Be brief.\n\nOne?"),
        ("gemma-4-31b-it", "Be brief.", "One?"),
    ],
)
async def test_gemma_3_gets_the_system_text_in_its_first_turn(
    google: GoogleFake, http: Http, model: str, system: str | None, first: str
) -> None:
    url = google.base_url
    provider = open_google("g", model, api_key=str(google.api_key), base_url=url, http=http)
    done = await provider.complete(TALK)
    turns = ("user", first), ("model", "1"), ("user", "Two?")
    told = {"systemInstruction": {"parts": [{"text": system}], "role": "user"}} if system else {}
    assert google.requests[-1].sent == {
        "contents": [{"role": role, "parts": [{"text": text}]} for role, text in turns],
        "generationConfig": {"temperature": 0.5, "maxOutputTokens": 64},
        **told,
    }
    assert "key=" not in google.requests[-1].path
    assert done.text == GoogleFake.default_reply


@pytest.mark.parametrize("asked", [TALK, prompt()])
async def test_gemma_is_sent_what_the_package_makes_of_its_own_types(
    google: GoogleFake, http: Http, asked: Prompt
) -> None:
    """Ours answer for it what it asks them, so that it need not look."""
    key, url, model = str(google.api_key), google.base_url, "gemma-4-31b-it"
    provider = open_google("g", model, api_key=key, base_url=url, http=http)
    await provider.complete(asked)
    await provider.client.aio.models.generate_content(
        model=model,
        contents=[
            types.Content(role=google_role(turn.role), parts=[types.Part(text=turn.content)])
            for turn in asked.turns
        ],
        config=types.GenerateContentConfig(
            system_instruction=asked.system,
            temperature=asked.temperature,
            max_output_tokens=asked.max_tokens,
        ),
    )
    ours, theirs = google.requests
    assert (ours.path, ours.query, ours.body) == (theirs.path, theirs.query, theirs.body)


async def test_gemma_is_asked_once_whatever_its_reply_leaves_out(http: Http) -> None:
    class Continuing(GoogleFake):
        def generate(self, request: Recorded) -> Reply:
            part = candidate([{"text": "Paris is"}], "CONTINUATION")
            return content_reply(request, {**part, "continuationToken": "dG9rZW4="})

    async with Continuing() as google:
        key, url = str(google.api_key), google.base_url
        provider = open_google("g", "gemma-4-31b-it", api_key=key, base_url=url, http=http)
        done = await provider.complete(prompt())
    assert (done.text, done.finish_reason, len(google.requests)) == ("Paris is", "other", 1)


async def test_the_package_that_google_left_still_works(google: GoogleFake) -> None:
    provider = open_google_generativeai(
        "legacy",
        "gemma-3-27b-it",
        api_key=str(google.api_key),
        base_url=google.base_url,
        timeout_s=5,
    )
    await provider.ping()
    done = await provider.complete(TALK)
    assert (done.text, done.finish_reason) == (GoogleFake.default_reply, "stop")
    sent = google.requests[-1].sent
    assert sent["contents"][0]["parts"][0]["text"] == "Be brief.\n\nOne?"


async def test_the_package_that_google_left_cannot_do_gemma_4() -> None:
    with pytest.raises(ConfigurationError, match="provider = 'google'"):
        open_google_generativeai("l", "gemma-4-31b-it", api_key="k", base_url=None, timeout_s=5)


@pytest.mark.parametrize("api_key", ["k-0123456789", None])
async def test_a_host_of_ones_own_needs_no_key(http: Http, api_key: str | None) -> None:
    async with OpenAICompatibleFake(api_key=api_key) as fake:
        url, model = f"{fake.base_url}/v1", fake.models[0]
        provider = OpenAICompatibleProvider("host", model, url, api_key, http)
        await provider.ping()
        assert (await provider.complete(TALK)).model == model
    assert fake.requests[-1].sent["messages"][0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize("fake_class", [AnthropicFake, GoogleFake, MistralFake])
async def test_pings_are_typed(fake_class: type[FakeServer], http: Http) -> None:
    async with fake_class() as fake:
        provider = open_for(fake, http)
        await provider.ping()
        fake.fail("unauthorized_401")
        with pytest.raises(UpstreamError) as caught:
            await provider.ping()
    assert caught.value.kind == "auth"


async def test_a_cancelled_call_closes_its_connection(
    claude: AnthropicFake, google: GoogleFake, http: Http
) -> None:
    for fake in (claude, google):
        fake.fail("hang")
    url = google.base_url
    gemma = open_google("g", "gemma-3-4b-it", api_key=str(google.api_key), base_url=url, http=http)
    for provider in (open_claude(claude, http, "claude-sonnet-5-5"), gemma):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await provider.complete(prompt())
    async with asyncio.timeout(10):
        while claude.in_progress or google.in_progress:
            await asyncio.sleep(0.01)
    assert (claude.cancelled, google.cancelled) == (1, 1)


def providers(fakes: Mapping[str, FakeServer], http: Http) -> list[Provider]:
    claude, google, mistral, host = fakes.values()
    key, gemma = str(claude.api_key), "gemma-3-27b-it"
    legacy = open_google_generativeai(
        "legacy", gemma, api_key=key, base_url=google.base_url, timeout_s=5
    )
    return [
        open_anthropic(
            "claude", "claude-sonnet-5-5", api_key=key, base_url=claude.base_url, http=http
        ),
        open_google("gemma", gemma, api_key=key, base_url=google.base_url, http=http),
        legacy,
        MistralProvider("mistral", mistral.models[0], f"{mistral.base_url}/v1", key, http),
        OpenAICompatibleProvider("host", host.models[0], f"{host.base_url}/v1", key, http),
    ]


@pytest.fixture
async def fakes() -> AsyncIterator[Mapping[str, FakeServer]]:
    async with (
        AnthropicFake() as claude,
        GoogleFake() as google,
        MistralFake() as mistral,
        OpenAICompatibleFake() as host,
    ):
        yield {"claude": claude, "google": google, "mistral": mistral, "host": host}


@pytest.mark.parametrize(
    ("fault", "usage"),
    [
        ("reset_mid_body", None),
        ("reset_before_reply", None),
        ("truncated_json", None),
        ("html_502", None),
        ("server_error_500", None),
        ("gateway_timeout_504", None),
        ("request_timeout_408", None),
        ("unauthorized_401", NOTHING),
        ("forbidden_403", NOTHING),
        ("model_not_found_404", NOTHING),
        ("rate_limited_429", NOTHING),
        ("unavailable_503", NOTHING),
    ],
)
async def test_only_what_was_turned_away_is_said_to_cost_nothing(
    fault: str, usage: Usage | None, fakes: Mapping[str, FakeServer], http: Http
) -> None:
    for fake in fakes.values():
        fake.fail(fault)
    for provider in providers(fakes, http):
        with pytest.raises(UpstreamError) as caught:
            await provider.complete(prompt())
        assert caught.value.usage == usage, provider.name


async def test_a_host_that_is_not_there_costs_nothing(
    fakes: Mapping[str, FakeServer], http: Http
) -> None:
    asked = providers(fakes, http)
    for fake in fakes.values():
        await fake.__aexit__(None, None, None)
    for provider in asked:
        with pytest.raises(UpstreamError) as caught:
            await provider.complete(prompt())
        assert (caught.value.kind, caught.value.usage) == ("unavailable", NOTHING), provider.name
    for fake in fakes.values():
        await fake.__aenter__()  # for the fixture to close


async def test_a_reply_without_text_tells_what_it_cost(http: Http) -> None:
    async with OpenAICompatibleFake() as fake:
        fake.fail("empty_text")
        url = f"{fake.base_url}/v1"
        host = OpenAICompatibleProvider("x", fake.models[0], url, fake.api_key, http)
        with pytest.raises(UpstreamError) as caught:
            await host.complete(prompt())
    assert caught.value.usage is not None
    assert caught.value.usage.input_tokens > 0


async def test_a_second_request_fails_with_an_error_of_its_own(
    claude: AnthropicFake, http: Http
) -> None:
    async with OpenAICompatibleFake() as fake:
        fake.fail_once("unprocessable_422")
        fake.fail_once("truncated_json")
        url = f"{fake.base_url}/v1"
        host = OpenAICompatibleProvider("x", fake.models[0], url, fake.api_key, http)
        with pytest.raises(UpstreamError) as caught:
            await host.complete_with_logprobs(prompt())
        assert (caught.value.kind, caught.value.usage) == ("bad_reply", None)
    claude.fail_once("temperature_deprecated_400")
    claude.fail_once("truncated_json")
    with pytest.raises(UpstreamError) as caught:
        await open_claude(claude, http, "claude-sonnet-4-6").complete(TALK)
    assert (caught.value.kind, caught.value.usage) == ("bad_reply", None)


async def test_a_huge_body_is_not_read_to_its_end(http: Http) -> None:
    async with OpenAICompatibleFake(api_key=None) as fake:
        fake.fail("huge_body")
        url = f"{fake.base_url}/v1/chat/completions"
        body = {"model": fake.models[0], "messages": [{"role": "user", "content": "a"}]}
        with pytest.raises(UpstreamError, match=f"over {MAX_BODY_BYTES // 2**20} MiB"):
            await post_json(http, "host", url, body, headers={})


async def test_the_proxy_that_the_environment_names_is_used(
    fakes: Mapping[str, FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    claude, host = fakes["claude"], fakes["host"]
    for fake in (claude, host):  # each as a proxy that answers by itself
        monkeypatch.setenv("http_proxy", fake.base_url.replace("//", "//user:pass@"))
        http, key, url = open_http(), str(fake.api_key), "http://upstream.invalid"
        provider: Provider
        if fake is claude:
            provider = open_anthropic("c", fake.models[0], api_key=key, base_url=url, http=http)
        else:
            provider = OpenAICompatibleProvider("h", fake.models[0], f"{url}/v1", key, http)
        assert (await provider.complete(prompt())).text == FakeServer.default_reply
        assert fake.requests[-1].headers["Proxy-Authorization"] == "Basic dXNlcjpwYXNz"
        monkeypatch.setenv("no_proxy", "upstream.invalid")
        with pytest.raises(UpstreamError, match="connection failed"):
            await provider.complete(prompt())
        monkeypatch.delenv("no_proxy")
        await http.aclose()


async def test_a_password_in_netrc_is_not_taken_for_the_key(
    fakes: Mapping[str, FakeServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password something")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    http = open_http()
    for provider in providers(fakes, http):
        assert (await provider.complete(prompt())).text == FakeServer.default_reply, provider.name
    await http.aclose()


async def test_no_cookies_are_kept(http: Http) -> None:
    class Tracking(AnthropicFake):
        reply_headers: ClassVar = {"Set-Cookie": "who=you; Path=/"}

    async with Tracking() as fake:
        provider = open_claude(fake, http, "claude-sonnet-5-5")
        for _ in range(2):
            await provider.complete(prompt())
            await http.session.get(f"{fake.base_url}/v1/models")
    assert len(fake.requests) == 4
    assert not any("Cookie" in request.headers for request in fake.requests)


@pytest.mark.parametrize("fake_class", [AnthropicFake, GoogleFake, MistralFake])
async def test_no_redirect_is_followed(fake_class: type[FakeServer], http: Http) -> None:
    moved = Fault("moved", "refused_request", status(307, Location="/elsewhere"), everywhere=True)
    moving = type("Moving", (fake_class,), {"FAULTS": (moved,)})
    async with moving() as fake:
        fake.fail("moved")
        provider = open_for(fake, http)
        for call in (provider.complete(prompt()), provider.ping()):
            with pytest.raises(UpstreamError, match="307"):
                await call
    assert len(fake.requests) == 2


async def test_a_proxys_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy.invalid")
    http = open_http()
    assert http.proxies["https"].startswith("http://user:secret@")
    assert "secret" not in repr(http)
    await http.aclose()


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":"\\ud83d"}', {"a": "\ud83d"}),
        ('{"a":"é"}'.encode("utf-16"), {"a": "é"}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b"[" * 300 + b"]" * 300, None),
        ("[1e999, 0.1]", [float("inf"), 0.1]),
    ],
)
def test_whatever_json_hosts_send_is_read(body: bytes | str, value: object) -> None:
    assert decoded(body) == (value or json.loads(body))


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"1 2", b"9" * 5000])
def test_what_is_no_json_is_none(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decoded(body)


def test_text_that_no_database_takes_is_mended() -> None:
    done = completion("m", "a\ud83d\ude00b\ud800c\0d", "stop", model="m", usage=None)
    assert done.text == "a\U0001f600b\ufffdc\ufffdd"
