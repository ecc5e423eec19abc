from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from app.settings import NvidiaScorerSpec, OpenAICompatibleSpec, Settings
from tests.conftest import settings


def seated(of: Settings) -> list[str]:
    return [seat.name for seat in of.seats if seat.why_not is None]


def why_not(of: Settings, name: str) -> str | None:
    return next(seat.why_not for seat in of.seats if seat.name == name)


def kinds() -> list[str]:
    """The ladder by kind, judges with their member."""
    return [f"judge:{s.member}" if s.kind == "judge" else s.kind for s in Settings().ladder]


PRICES = "[prices.'{0}']\ninput_per_million = 1.0\noutput_per_million = 2.0\n"


def write(text: str) -> None:
    Path("starboard.toml").write_text(text)


def test_without_a_key_the_embedded_members_sit_and_score() -> None:
    assert seated(Settings()) == ["smollm2", "smollm2-warm"]
    assert kinds() == ["embedded"]
    assert why_not(Settings(), "claude") == "set ANTHROPIC_API_KEY"


def test_a_key_seats_its_member_and_the_embedded_ones_stand_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "g")
    assert seated(Settings()) == ["gemma"]
    assert "name it in board" in str(why_not(Settings(), "smollm2"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a")
    monkeypatch.setenv("MISTRAL_API_KEY", "m")
    assert seated(Settings()) == ["claude", "mistral", "gemma"]


def test_google_has_two_names_for_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "g")
    assert seated(Settings()) == ["gemma"]


def test_an_empty_variable_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "")
    assert seated(Settings()) == ["smollm2", "smollm2-warm"]


def test_default_board_order_puts_others_before_the_embedded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a")
    write('[members.qwen]\nprovider = "openai_compatible"\nbase_url = "http://h/v1"\nmodel = "q"\n')
    assert [seat.name for seat in Settings().seats] == [
        "claude",
        "mistral",
        "gemma",
        "qwen",
        "smollm2",
        "smollm2-warm",
    ]


def test_the_board_sets_who_sits_and_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a")
    monkeypatch.setenv("GEMINI_API_KEY", "g")
    write('board = ["smollm2", "gemma"]')
    assert seated(Settings()) == ["smollm2", "gemma"]
    assert why_not(Settings(), "claude") == "not named in board"


def test_a_board_of_strangers_is_refused() -> None:
    write('board = ["gpt"]')
    with pytest.raises(ValidationError, match="no member named gpt"):
        Settings()


def test_a_row_changes_a_default_member(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a")
    write('[members.claude]\nmodel = "claude-x"\n[members.gemma]\nenabled = false\n')
    assert Settings().seats[0].model == "claude-x"
    assert why_not(Settings(), "gemma") == "enabled = false"
    monkeypatch.setenv("CLAUDE_MODEL", "claude-y")
    assert Settings().seats[0].model == "claude-y"


def test_a_default_name_may_take_another_provider() -> None:
    write('[members.smollm2]\nprovider = "scripted"\nreply = "hi"\n')
    assert seated(Settings()) == ["smollm2"]


def test_the_key_of_a_host_comes_from_the_variable_its_row_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(
        '[members.q]\nprovider = "openai_compatible"\nbase_url = "http://h/v1"\n'
        'model = "q"\napi_key_env = "Q_KEY"\n'
    )
    assert why_not(Settings(), "q") == "set Q_KEY"
    monkeypatch.setenv("Q_KEY", "secret")
    spec = next(seat.spec for seat in Settings().seats if seat.name == "q")
    assert isinstance(spec, OpenAICompatibleSpec)
    assert spec.api_key is not None
    assert spec.api_key.get_secret_value() == "secret"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("colour = 1", "colour"),
        ('[members.claude]\napi_key = "sk-123456"', "keys are read from the environment"),
        ('[members.x]\nprovider = "abacus"', "abacus"),
        ('[members.x]\nprovider = "openai_compatible"\nmodel = "m"', "base_url"),
        ("deadline_s = 0", "deadline_s"),
        ("deadline_s = 0.09", "deadline_s"),
        ("scorer = []", "scorer"),
        ('scorer = "abacus"', "abacus"),
        ('[scorer]\nkind = "judge"\nmember = "nobody"', "no member named nobody to judge"),
        ('[members.starboard]\nprovider = "scripted"\nreply = "r"', "cannot be named starboard"),
        ('[members.nvidia]\nprovider = "scripted"\nreply = "r"', "cannot be named nvidia"),
        (PRICES.format("claude-sonet"), "prices: no member, scorer or model is named claude-sonet"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name(text: str, match: str) -> None:
    write(text)
    with pytest.raises(ValidationError, match=match) as caught:
        Settings()
    assert "sk-123456" not in str(caught.value)


def test_a_file_that_is_not_toml_is_named() -> None:
    write("= nonsense")
    with pytest.raises(SettingsError, match=r"starboard\.toml"):
        Settings()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('ANTHROPIC_API_KEY = "sk-1"', SettingsError),
        ('anthropic_api_key = "sk-1"', SettingsError),
        ('[scorer]\nkind = "nvidia"\napi_key = "nvapi-1"', ValidationError),
    ],
)
def test_no_key_is_taken_from_the_file(text: str, error: type[Exception]) -> None:
    write(text)
    with pytest.raises(error) as caught:
        Settings()
    assert "sk-1" not in str(caught.value)
    assert "nvapi-1" not in str(caught.value)


def test_a_key_loses_the_white_space_of_copying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", " key\n")
    key = Settings().mistral_api_key
    assert key is not None
    assert key.get_secret_value() == "key"
    monkeypatch.setenv("MISTRAL_API_KEY", "key\u2026")
    with pytest.raises(ValidationError, match="MISTRAL_API_KEY"):
        Settings()


def test_lists_and_levels_may_be_written_as_people_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARBOARD_BOARD", "gemma, smollm2")
    monkeypatch.setenv("STARBOARD_LOG_LEVEL", "INFO")
    assert (Settings().board, Settings().log_level) == (("gemma", "smollm2"), "info")


def test_two_hosts_for_a_package_that_keeps_one_are_refused() -> None:
    row = 'provider = "google_generativeai"\nbase_url = "http://{0}"\n'
    write("[members.a]\n" + row.format("a") + "[members.b]\n" + row.format("b"))
    with pytest.raises(ValidationError, match="one base_url"):
        Settings()


def test_a_config_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARBOARD_CONFIG", "nowhere.toml")
    with pytest.raises(SettingsError, match=r"nowhere\.toml"):
        Settings()


def test_the_reward_model_follows_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", "n")
    monkeypatch.setenv("REWARD_MODEL", "nvidia/other")
    scorer = Settings().ladder[0]
    assert isinstance(scorer, NvidiaScorerSpec)
    assert scorer.model == "nvidia/other"
    assert kinds() == ["nvidia", "embedded"]
    monkeypatch.setenv("STARBOARD_SCORER", "embedded")
    assert kinds() == ["embedded"]


def test_with_vendors_the_first_of_them_in_board_order_judges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", "m")
    monkeypatch.setenv("GEMINI_API_KEY", "g")
    assert kinds() == ["judge:mistral", "embedded"]
    write('board = ["smollm2", "gemma", "mistral"]')
    assert kinds() == ["judge:gemma", "embedded"]
    monkeypatch.setenv("NVIDIA_API_KEY", "n")
    assert kinds() == ["nvidia", "judge:gemma", "embedded"]


def test_a_model_of_ones_own_does_not_judge_unless_it_is_named() -> None:
    row = '[members.q]\nprovider = "openai_compatible"\nbase_url = "http://h/v1"\nmodel = "q"\n'
    write(row)
    assert kinds() == ["embedded"]
    write(f'{row}[scorer]\nkind = "judge"\nmember = "q"\n')
    assert kinds() == ["judge:q"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('scorer = "embedded"', ["embedded"]),
        ('scorer = "judge, embedded"', ["judge:None", "embedded"]),
        ('scorer = ["judge", "embedded"]', ["judge:None", "embedded"]),
        ('[scorer]\nkind = "embedded"', ["embedded"]),
        ('[[scorer]]\nkind = "nvidia"\n[[scorer]]\nkind = "embedded"', ["nvidia", "embedded"]),
    ],
)
def test_the_ladder_is_the_operators(text: str, found: list[str]) -> None:
    write(text)
    assert kinds() == found


def test_the_ladder_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    write('scorer = "nvidia"')
    monkeypatch.setenv("STARBOARD_SCORER", "judge,embedded")
    assert kinds() == ["judge:None", "embedded"]


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write("port = 9000")
    assert Settings().port == 9000
    monkeypatch.setenv("STARBOARD_PORT", "9001")
    assert Settings().port == 9001


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-very-secret")
    assert "sk-very-secret" not in repr(Settings()) + repr(Settings().seats)
    assert "sk-very-secret" not in Settings().model_dump_json()


def test_prices_may_be_of_members_models_and_scorers_that_are_not_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLAUDE_MODEL", "claude-x")
    names = ("claude", "claude-x", "claude-sonnet-5-5", "nvidia", "remote", "script-1")
    row = '[members.a]\nprovider = "scripted"\nreply = "r"\nmodel = "script-1"\n'
    write(row + "".join(PRICES.format(name) for name in names))
    assert set(Settings().prices) == set(names)


@pytest.mark.parametrize(
    ("url", "passwords"),
    [
        ("postgresql+asyncpg://me:p[w@db/starboard", {"p[w"}),
        ("postgresql+asyncpg://me:p%40w@db/starboard", {"p%40w", "p@w"}),
        ("postgresql+asyncpg://me@db/starboard?password=p%2Fw", {"p/w"}),
        ("postgresql+asyncpg://me:@db:port/starboard", set()),
        ("sqlite:////data/a:b@c.db", set()),
        ("nonsense", set()),
    ],
)
def test_a_password_in_the_databases_url_is_known_and_not_shown(
    url: str, passwords: set[str]
) -> None:
    ours = settings(database_url=url)
    assert set(ours.secrets) == passwords
    assert url not in repr(ours) + ours.model_dump_json()


def test_keys_in_the_headers_to_a_collector_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20c2VjcmV0==,x-scope-orgid=1"
    )
    assert set(Settings().secrets) == {"Bearer%20c2VjcmV0==", "c2VjcmV0=="}
    assert "c2VjcmV0" not in repr(Settings()) + Settings().model_dump_json()


def test_traces_that_would_go_nowhere_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert not Settings().traced
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")
    with pytest.raises(ValidationError, match="http/protobuf alone"):
        Settings()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    assert Settings().traced


def test_settings_from_values_need_no_file() -> None:
    assert settings(port=1234).port == 1234


def test_a_scorer_named_in_the_environment_keeps_its_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write('[scorer]\nkind = "nvidia"\nbase_url = "http://nim:8000"\nresolution = 0.5\n')
    monkeypatch.setenv("STARBOARD_SCORER", "nvidia, embedded")
    first, second = Settings().ladder
    assert isinstance(first, NvidiaScorerSpec)
    assert (str(first.base_url), first.resolution) == ("http://nim:8000/", 0.5)
    assert second.kind == "embedded"


def test_only_what_is_known_to_be_free_may_train_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    host = {"provider": "openai_compatible", "model": "m", "base_url": "http://host/v1"}
    found = settings(
        members={
            "gemma-270m": {"provider": "embedded", "model": "gemma-3-270m"},
            "pinned": {"provider": "google_generativeai"},
            "host": host,
            "mine": {**host, "trainable": True},
            "mistral": {"trainable": True},
            "smollm2-warm": {"trainable": False},
            "canned": {"provider": "scripted", "reply": "1"},
        }
    )
    may_train = {seat.name for seat in found.seats if seat.trainable}
    assert may_train == {"smollm2", "mine", "mistral", "canned"}
    assert len(found.seats) == 10
