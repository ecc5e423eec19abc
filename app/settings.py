"""Settings: the only reader of the environment and of `starboard.toml`.

Precedence: environment, then the file, then the defaults below. Keys come from the environment
alone. The names are in docs/configuration.md; an unknown name in the file is an error.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, unquote

from pydantic import (
    AfterValidator,
    AliasChoices,
    AnyHttpUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

DEFAULT_CONFIG = Path("starboard.toml")

# Board order of the members that need no row in the file. Ties go by this order.
DEFAULT_MEMBERS: Mapping[str, Mapping[str, object]] = {
    "claude": {"provider": "anthropic"},
    "mistral": {"provider": "mistral"},
    "gemma": {"provider": "google"},
    "smollm2": {"provider": "embedded", "temperature": 0.0},
    "smollm2-warm": {"provider": "embedded", "temperature": 0.8, "seed": 7},
}

OTLP_PROTOCOL = "http/protobuf"
SHORTEST_KEY = 8

# Variables whose names no line of a file may use.
ENVIRONMENT_ONLY = frozenset(
    f"{vendor}_{what}"
    for vendor in ("ANTHROPIC", "GEMINI", "GOOGLE", "GOOGLE_GEMINI", "MISTRAL", "NVIDIA")
    for what in ("API_KEY", "BASE_URL")
) | {
    "CLAUDE_MODEL",
    "GEMMA_MODEL",
    "MISTRAL_MODEL",
    "REWARD_MODEL",
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "PROMETHEUS_MULTIPROC_DIR",
}


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _from_environment_only(value: object) -> object:
    if isinstance(value, str):
        raise ValueError("keys are read from the environment, not from the file")
    return value


def _plain(value: object) -> object:
    """A key without the white space that copying adds; what no HTTP header takes is refused."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"[!-~]*", value.strip()):
        raise ValueError("holds characters that no key has")
    return value.strip()


# `starboard` is the whole board to clients of /v1; the others name scorers in [prices].
PRICED_SCORERS = frozenset({"nvidia", "remote"})
TAKEN = PRICED_SCORERS | {"starboard"}


def _not_taken(name: str) -> str:
    if name in TAKEN:
        raise ValueError(f"a member cannot be named {name}, which means something else")
    return name


Key = Annotated[SecretStr, BeforeValidator(_plain)]
ResolvedKey = Annotated[
    SecretStr | None, BeforeValidator(_from_environment_only), Field(exclude=True)
]
Model = Annotated[str, StringConstraints(min_length=1, max_length=200)]
MemberName = Annotated[
    str, StringConstraints(pattern=r"^[\w.-]{1,64}$"), AfterValidator(_not_taken)
]


class _KeyedSpec(_Spec):
    api_key: ResolvedKey = None


class _MemberSpec(_Spec):
    """`trainable`: whether its terms let its replies train a model; None: see `Seat.trainable`.
    More calls than `max_concurrency` at one time wait for each other, within their deadlines."""

    enabled: bool = True
    trainable: bool | None = None
    max_concurrency: int | None = Field(default=None, ge=1)


class _RemoteSpec(_MemberSpec, _KeyedSpec):
    base_url: AnyHttpUrl | None = None


class AnthropicSpec(_RemoteSpec):
    provider: Literal["anthropic"]
    model: Model = "claude-sonnet-5-5"


class GoogleSpec(_RemoteSpec):
    provider: Literal["google"]
    model: Model = "gemma-3-27b-it"


class GoogleGenerativeAISpec(_RemoteSpec):
    """The same API through the package google-generativeai, for sites that pin it."""

    provider: Literal["google_generativeai"]
    model: Model = "gemma-3-27b-it"


class MistralSpec(_RemoteSpec):
    provider: Literal["mistral"]
    model: Model = "mistral-large-latest"


class OpenAICompatibleSpec(_RemoteSpec):
    """Any host with `/chat/completions`. `base_url` includes the version, as `http://host/v1`."""

    provider: Literal["openai_compatible"]
    model: Model
    base_url: AnyHttpUrl
    api_key_env: str | None = None


EmbeddedModel = Literal["smollm2-135m-instruct", "gemma-3-270m"]
EMBEDDED_TERMS: Mapping[EmbeddedModel, str] = {
    "smollm2-135m-instruct": "Apache-2.0",
    "gemma-3-270m": "Gemma Terms of Use, https://ai.google.dev/gemma/terms",
}


class EmbeddedSpec(_MemberSpec):
    """A small model in this process. `temperature` and `seed` apply where the prompt has none;
    `adapter` is a LoRA adapter for it, as GGUF."""

    provider: Literal["embedded"]
    model: EmbeddedModel = "smollm2-135m-instruct"
    adapter: Path | None = None
    temperature: float = Field(default=0.0, ge=0, le=2)
    seed: int = 7


class LocalSpec(_MemberSpec):
    """A model in this process on torch; needs the extra `local`.

    `model` is a folder, a hub id (downloaded on first use) or the name of an embedded model;
    `adapter` is the folder of a LoRA adapter for it. `temperature` and `seed` apply where the
    prompt has none; prompt and reply have `context_tokens` together.
    """

    provider: Literal["local"]
    model: Model
    adapter: Path | None = None
    device: str | None = None
    temperature: float = Field(default=0.0, ge=0, le=2)
    seed: int = 7
    context_tokens: int | None = Field(default=None, ge=64)
    batch_tokens: int = Field(default=16_384, ge=1)
    queue_limit: int = Field(default=256, ge=1)


class ScriptedSpec(_MemberSpec):
    """Canned replies, for documentation and tests."""

    provider: Literal["scripted"]
    model: str = "scripted"
    reply: str
    delay_s: float = Field(default=0, ge=0)


ProviderSpec = Annotated[
    AnthropicSpec
    | GoogleSpec
    | GoogleGenerativeAISpec
    | MistralSpec
    | OpenAICompatibleSpec
    | EmbeddedSpec
    | LocalSpec
    | ScriptedSpec,
    Field(discriminator="provider"),
]


class _ScorerSpec(_Spec):
    """`calibration` is a file that maps the scorer's numbers to the common scale."""

    calibration: Path | None = None


class NvidiaScorerSpec(_ScorerSpec, _KeyedSpec):
    """A reward model behind NVIDIA's hosted API, or a NIM of your own at `base_url`."""

    kind: Literal["nvidia"]
    model: Model = "nvidia/nemotron-4-340b-reward"
    base_url: AnyHttpUrl | None = None
    resolution: float = Field(default=0.1, ge=0)
    requests_per_minute: int = Field(default=40, ge=1)


class JudgeScorerSpec(_ScorerSpec):
    """A model as judge: `member` names a row of `members`, seated or not; None is the first
    vendor's seat in board order."""

    kind: Literal["judge"]
    member: str | None = None
    exclude_own_family: bool = False
    max_tokens: int = Field(default=512, ge=64)
    resolution: float | None = Field(default=None, ge=0)


class EmbeddedScorerSpec(_ScorerSpec):
    kind: Literal["embedded"]
    resolution: float | None = Field(default=None, ge=0)


class LocalScorerSpec(_ScorerSpec):
    """An open reward model in this process; needs the extra `local`.

    `model` is a folder or a hub id, which is downloaded on first use. `trust_remote_code` repeats
    that name to let the model's own code run, so that another model does not inherit the trust.
    """

    kind: Literal["local"]
    model: Model
    revision: str | None = None
    device: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    max_tokens: int | None = Field(default=None, ge=32)
    batch_tokens: int = Field(default=8192, ge=1)
    queue_limit: int = Field(default=256, ge=1)
    resolution: float | None = Field(default=None, ge=0)
    trust_remote_code: str | None = None

    @model_validator(mode="after")
    def _trust_is_by_name(self) -> Self:
        if self.trust_remote_code not in (None, self.model):
            raise ValueError("trust_remote_code must repeat the model's name, or be left out")
        return self


class RemoteScorerSpec(_ScorerSpec, _KeyedSpec):
    """An open reward model behind vLLM, Text Embeddings Inference or SGLang.

    `head` says what its outputs are; `labels` the order of five attributes, if it is not
    HelpSteer's; an attribute is `factor` x output + `offset`. `tokenizer` (a folder or hub id;
    needs the extra `local`) has the text rendered here and sent as tokens.
    """

    kind: Literal["remote"]
    server: Literal["vllm", "tei", "sglang"]
    route: Literal["classify", "pooling", "score"] = "classify"
    base_url: AnyHttpUrl
    model: Model
    head: Literal["attributes", "armorm", "scalar"]
    labels: tuple[str, ...] | None = None
    factor: float = 1.0
    offset: float = 0.0
    tokenizer: str | None = None
    max_tokens: int | None = Field(default=None, ge=32)
    resolution: float = Field(default=0.1, ge=0)
    api_key_env: str | None = None


class ScriptedScorerSpec(_ScorerSpec):
    """Rewards by reply text, for documentation and tests."""

    kind: Literal["scripted"]
    rewards: dict[str, float] = {}
    resolution: float = Field(default=0.1, ge=0)


ScorerSpec = Annotated[
    NvidiaScorerSpec
    | LocalScorerSpec
    | RemoteScorerSpec
    | JudgeScorerSpec
    | EmbeddedScorerSpec
    | ScriptedScorerSpec,
    Field(discriminator="kind"),
]


class EngineSettings(_Spec):
    """The embedded engine. `threads` None: physical cores minus one, at least one."""

    threads: int | None = Field(default=None, ge=1)
    slots: int = Field(default=4, ge=1, le=64)
    context_tokens: int = Field(default=2048, ge=256, le=8192)
    cache_dir: Path = Field(default_factory=lambda: Path.home() / ".cache" / "starboard")


class PriceSpec(_Spec):
    """USD per million tokens."""

    input_per_million: float = Field(ge=0, allow_inf_nan=False)
    output_per_million: float = Field(ge=0, allow_inf_nan=False)


class BreakerSettings(_Spec):
    """When a member that keeps failing is left alone; `failures` 0: never."""

    failures: int = Field(default=5, ge=0)
    cool_down_s: float = Field(default=15, gt=0, le=3600)


def signature(spec: ProviderSpec) -> str:
    """What replies are signed with: the model, and the end of its adapter's path."""
    if isinstance(spec, EmbeddedSpec | LocalSpec) and spec.adapter:
        return f"{spec.model} + {'/'.join(spec.adapter.parts[-2:])}"
    return spec.model


@dataclass(frozen=True)
class Seat:
    """A member as configured. `why_not` is None if it sits, else the reason it does not."""

    name: str
    spec: ProviderSpec
    why_not: str | None

    @property
    def model(self) -> str:
        return signature(self.spec)

    @property
    def terms(self) -> str | None:
        """What the user of an embedded model agrees to; None for others."""
        if not isinstance(self.spec, EmbeddedSpec | LocalSpec):
            return None
        return next((EMBEDDED_TERMS[n] for n in EMBEDDED_TERMS if n == self.spec.model), None)

    @property
    def trainable(self) -> bool:
        """Whether its replies may train a model: as the operator says, else only where we know the
        terms and they ask for nothing. Vendors forbid it or tie it to conditions, Gemma's terms
        pass on to what its outputs train, and what stands behind a host we cannot know."""
        if self.spec.trainable is not None:
            return self.spec.trainable
        return self.terms == "Apache-2.0" or isinstance(self.spec, ScriptedSpec)

    @property
    def from_vendor(self) -> bool:
        """Whether it is a vendor's hosted model, called with the vendor's key."""
        return isinstance(
            self.spec, AnthropicSpec | GoogleSpec | GoogleGenerativeAISpec | MistralSpec
        )


class Settings(BaseSettings):
    """Everything an operator can set."""

    model_config = SettingsConfigDict(
        env_prefix="STARBOARD_",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    # It may hold a password.
    database_url: str = Field(default="sqlite:///starboard.db", repr=False, exclude=True)
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
    ] = "info"
    log_format: Literal["text", "json"] = "text"
    workers: int = Field(default=1, ge=1)
    drain_s: float = Field(default=2, ge=0, le=600)
    metrics_dir: Path | None = Field(default=None, validation_alias="PROMETHEUS_MULTIPROC_DIR")
    trace_content: bool = False
    traces_exporter: Literal["otlp", "none"] | None = Field(
        default=None, validation_alias="OTEL_TRACES_EXPORTER"
    )
    otlp_endpoint: AnyHttpUrl | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
        ),
    )
    otlp_headers: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"
        ),
    )
    otlp_protocol: str | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
        ),
    )

    board: Annotated[tuple[str, ...] | None, NoDecode] = None
    members: dict[MemberName, ProviderSpec] = Field(default_factory=dict)
    scorer: Annotated[tuple[ScorerSpec, ...] | None, NoDecode, Field(min_length=1)] = None
    self_check: bool = True
    standing: Literal["order", "wins"] = "order"
    standing_min: int = Field(default=50, ge=1)
    engine: EngineSettings = EngineSettings()
    breaker: BreakerSettings = BreakerSettings()

    timeout_s: float = Field(default=55, gt=0)
    deadline_s: float = Field(default=60, ge=0.1, le=600)
    keep_alive_s: float = Field(default=5, gt=0)
    max_tokens: int = Field(default=512, ge=1)
    max_body_bytes: int = Field(default=1_048_576, ge=1024)
    retention_days: float | None = Field(default=None, gt=0, le=36_500)
    runs_dir: Path | None = None

    auth: Literal["auto", "off"] = "auto"
    prices: dict[str, PriceSpec] = Field(default_factory=dict)
    max_calls: int = Field(default=64, ge=1)
    max_hops: int = Field(default=2, ge=0)

    anthropic_api_key: Key | None = Field(default=None, validation_alias="ANTHROPIC_API_KEY")
    gemini_api_key: Key | None = Field(
        default=None, validation_alias=AliasChoices("GEMINI_API_KEY", "GOOGLE_API_KEY")
    )
    mistral_api_key: Key | None = Field(default=None, validation_alias="MISTRAL_API_KEY")
    nvidia_api_key: Key | None = Field(default=None, validation_alias="NVIDIA_API_KEY")
    anthropic_base_url: AnyHttpUrl | None = Field(
        default=None, validation_alias="ANTHROPIC_BASE_URL"
    )
    google_base_url: AnyHttpUrl | None = Field(
        default=None, validation_alias="GOOGLE_GEMINI_BASE_URL"
    )
    mistral_base_url: AnyHttpUrl | None = Field(default=None, validation_alias="MISTRAL_BASE_URL")
    nvidia_base_url: AnyHttpUrl | None = Field(default=None, validation_alias="NVIDIA_BASE_URL")
    claude_model: str | None = Field(default=None, validation_alias="CLAUDE_MODEL")
    gemma_model: str | None = Field(default=None, validation_alias="GEMMA_MODEL")
    mistral_model: str | None = Field(default=None, validation_alias="MISTRAL_MODEL")
    reward_model: str | None = Field(default=None, validation_alias="REWARD_MODEL")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = _config_path()
        file = TomlConfigSettingsSource(settings_cls, toml_file=path)
        for name in ENVIRONMENT_ONLY & set(file()):
            raise SettingsError(f"{path}: {name} is read from the environment, not from the file")
        named = _NamedScorers(settings_cls, env_settings, file)
        return init_settings, named, env_settings, file

    @field_validator("members", mode="before")
    @classmethod
    def _rows_extend_the_default_board(cls, rows: object) -> object:
        if not isinstance(rows, Mapping):
            return rows
        known = {name: _merged(row, rows.get(name)) for name, row in DEFAULT_MEMBERS.items()}
        return known | {name: row for name, row in rows.items() if name not in known}

    @field_validator("board", mode="before")
    @classmethod
    def _names_may_be_separated_by_commas(cls, value: object) -> object:
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("scorer", mode="before")
    @classmethod
    def _scorers_by_name(cls, value: object) -> object:
        """One scorer or a list of them, each a table or just its kind, as `nvidia,embedded`."""
        if isinstance(value, str):
            value = [kind.strip() for kind in value.split(",")]
        rows = value if isinstance(value, list | tuple) else None if value is None else [value]
        return rows and [{"kind": row} if isinstance(row, str) else row for row in rows]

    @model_validator(mode="before")
    @classmethod
    def _members_have_defaults(cls, values: Any) -> Any:
        return {"members": {}} | values if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        unknown = [name for name in self.board or () if name not in self.members]
        if unknown:
            known = ", ".join(self.members)
            raise ValueError(f"board: no member named {', '.join(unknown)}; there are {known}")
        for spec in self.scorer or ():
            if isinstance(spec, JudgeScorerSpec) and spec.member not in (None, *self.members):
                raise ValueError(f"scorer: no member named {spec.member} to judge")
        return self

    @model_validator(mode="after")
    def _one_host_for_google_generativeai(self) -> Self:
        specs = [s for s in self.members.values() if isinstance(s, GoogleGenerativeAISpec)]
        if len({spec.base_url for spec in specs if spec.enabled}) > 1:
            raise ValueError("members: google_generativeai has one base_url for the whole process")
        return self

    @model_validator(mode="after")
    def _prices_name_somebody(self) -> Self:
        """Members and models that do not sit may have prices: one file serves several places."""
        specs = (*self.members.values(), NvidiaScorerSpec(kind="nvidia"), *(self.scorer or ()))
        models = {getattr(spec, "model", None) for spec in specs}
        named = {self.claude_model, self.gemma_model, self.mistral_model, self.reward_model}
        if unknown := sorted(self.prices.keys() - self.members - PRICED_SCORERS - models - named):
            raise ValueError(f"prices: no member, scorer or model is named {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _traces_go_over_http(self) -> Self:
        if self.traced and self.otlp_protocol not in (None, OTLP_PROTOCOL):
            raise ValueError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL is {self.otlp_protocol}, and traces are sent by "
                f"{OTLP_PROTOCOL} alone: set it to that and the endpoint to the collector's port "
                "for HTTP (4318), or OTEL_TRACES_EXPORTER=none"
            )
        return self

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.host)

    def price(self, name: str, model: str) -> PriceSpec | None:
        """The row of a member or scorer, else of its model."""
        return self.prices.get(name) or self.prices.get(model)

    @cached_property
    def seats(self) -> tuple[Seat, ...]:
        """Every configured member in board order, seated or not.

        The embedded members sit when nobody else does, or when `board` names them.
        """
        specs = {name: self._with_environment(name, spec) for name, spec in self.members.items()}
        order = [*(self.board or ()), *sorted(specs, key=lambda name: _rank(name, specs[name]))]
        seats = [
            Seat(name, specs[name], self._why_not(name, specs[name]))
            for name in dict.fromkeys(order)
        ]
        if self.board is None and any(
            _rank(s.name, s.spec) < _LAST for s in seats if not s.why_not
        ):
            return tuple(_stand_down(seat) for seat in seats)
        return tuple(seats)

    @property
    def trainable(self) -> frozenset[str]:
        """The members, seated or not, whose replies may train a model."""
        return frozenset(seat.name for seat in self.seats if seat.trainable)

    @cached_property
    def ladder(self) -> tuple[ScorerSpec, ...]:
        """The scorers, best first: as configured, or by the keys there are.

        Without a word from the operator: NVIDIA's if there is a key or host for it, a judge if a
        vendor's member sits, and the embedded scorer.
        """
        vendor = next((s.name for s in self.seats if s.from_vendor and not s.why_not), None)
        chosen: tuple[ScorerSpec, ...] = self.scorer or (
            *([NvidiaScorerSpec(kind="nvidia")] if self._has_nvidia else []),
            *([JudgeScorerSpec(kind="judge")] if vendor else []),
            EmbeddedScorerSpec(kind="embedded"),
        )
        return tuple(self._scorer_with_environment(spec, vendor) for spec in chosen)

    @property
    def traced(self) -> bool:
        """Whether OpenTelemetry's own variables ask for traces."""
        return bool(self.traces_exporter or self.otlp_endpoint) and self.traces_exporter != "none"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every key and password there is, as it is written and as it is sent: what no line of
        the log may hold."""
        specs = (*(seat.spec for seat in self.seats), *self.ladder)
        keys = [spec.api_key for spec in specs if isinstance(spec, _KeyedSpec) and spec.api_key]
        headers = self.otlp_headers.get_secret_value() if self.otlp_headers else ""
        return (
            *(key.get_secret_value() for key in keys),
            *_passwords(self.database_url),
            *_keys_in(headers),
        )

    @property
    def _has_nvidia(self) -> bool:
        return bool(self.nvidia_api_key or self.nvidia_base_url)

    def _scorer_with_environment(self, spec: ScorerSpec, vendor: str | None) -> ScorerSpec:
        if isinstance(spec, JudgeScorerSpec):
            return spec.model_copy(update={"member": spec.member or vendor})
        if isinstance(spec, NvidiaScorerSpec):
            return spec.model_copy(
                update={
                    "api_key": self.nvidia_api_key,
                    "base_url": spec.base_url or self.nvidia_base_url,
                    "model": self.reward_model or spec.model,
                }
            )
        if isinstance(spec, RemoteScorerSpec):
            return spec.model_copy(update={"api_key": _key_of(spec.api_key_env)})
        return spec

    def _with_environment(self, name: str, spec: ProviderSpec) -> ProviderSpec:
        """The spec with its key, and with base URL and model where the environment has them."""
        match spec:
            case AnthropicSpec():
                key, base_url = self.anthropic_api_key, self.anthropic_base_url
            case GoogleSpec() | GoogleGenerativeAISpec():
                key, base_url = self.gemini_api_key, self.google_base_url
            case MistralSpec():
                key, base_url = self.mistral_api_key, self.mistral_base_url
            case OpenAICompatibleSpec():
                key, base_url = _key_of(spec.api_key_env), None
            case EmbeddedSpec() | LocalSpec() | ScriptedSpec():
                return spec
        models = {
            "claude": self.claude_model,
            "gemma": self.gemma_model,
            "mistral": self.mistral_model,
        }
        return spec.model_copy(
            update={
                "api_key": key,
                "base_url": spec.base_url or base_url,
                "model": models.get(name) or spec.model,
            }
        )

    def _why_not(self, name: str, spec: ProviderSpec) -> str | None:
        if not spec.enabled:
            return "enabled = false"
        if self.board is not None and name not in self.board:
            return "not named in board"
        return missing_key(spec)


class _NamedScorers(PydanticBaseSettingsSource):
    """STARBOARD_SCORER names kinds; a table of that kind in the file keeps what it sets."""

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        env: PydanticBaseSettingsSource,
        file: PydanticBaseSettingsSource,
    ) -> None:
        super().__init__(settings_cls)
        self._env, self._file = env, file

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        named, rows = self._env().get("scorer"), self._file().get("scorer", [])
        if not isinstance(named, str):
            return {}
        tables = rows if isinstance(rows, list) else [rows]
        by_kind = {row.get("kind"): row for row in tables if isinstance(row, Mapping)}
        kinds = [kind.strip() for kind in named.split(",")]
        return {"scorer": [by_kind.get(kind, {"kind": kind}) for kind in kinds]}


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine, and cannot be made to mean another."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _passwords(url: str) -> set[str]:
    """The passwords in a database's URL, which need not be a good one."""
    written = re.match(r"[\w+]+://[^:/]*:([^@]*)@", url)  # as SQLAlchemy parts it
    asked = parse_qs(url.partition("?")[2]).get("password", [])
    found = {written[1], unquote(written[1])} if written else set()
    return {*found, *asked} - {""}


def _keys_in(headers: str) -> set[str]:
    """What may be a key in `name=value,…`, percent-encoded. Shorter words, as a tenant's number or
    a scheme, stand elsewhere too."""
    values = [pair.partition("=")[2] for pair in headers.split(",")]
    words = {word for value in values for word in (*value.split(), *unquote(value).split())}
    return {word for word in words if len(word) >= SHORTEST_KEY}


def _key_of(variable: str | None) -> SecretStr | None:
    value = os.environ.get(variable, "").strip() if variable else ""
    if not re.fullmatch(r"[!-~]*", value):
        raise SettingsError(f"{variable} holds characters that no key has")
    return SecretStr(value) if value else None


_LAST = len(DEFAULT_MEMBERS) + 1


def missing_key(spec: ProviderSpec) -> str | None:
    """What to set so that the model can be called, None if nothing is missing."""
    match spec:
        case AnthropicSpec(api_key=None):
            return "set ANTHROPIC_API_KEY"
        case GoogleSpec(api_key=None) | GoogleGenerativeAISpec(api_key=None):
            return "set GEMINI_API_KEY"
        case MistralSpec(api_key=None):
            return "set MISTRAL_API_KEY"
        case OpenAICompatibleSpec(api_key=None, api_key_env=str(variable)):
            return f"set {variable}"
    return None


def _rank(name: str, spec: ProviderSpec) -> int:
    """Default board order: claude, mistral, gemma, then others, then embedded."""
    if isinstance(spec, EmbeddedSpec):
        return _LAST
    return list(DEFAULT_MEMBERS).index(name) if name in DEFAULT_MEMBERS else _LAST - 1


def _stand_down(seat: Seat) -> Seat:
    """An embedded default member leaves its seat to members that were set up on purpose."""
    if seat.why_not or seat.name not in DEFAULT_MEMBERS or not isinstance(seat.spec, EmbeddedSpec):
        return seat
    return Seat(seat.name, seat.spec, "another member sits; name it in board to seat it too")


def _merged(default: Mapping[str, object], row: object) -> object:
    """The default row with the operator's fields over it, unless theirs is another provider."""
    if row is None:
        return default
    if isinstance(row, Mapping) and row.get("provider", default["provider"]) == default["provider"]:
        return {**default, **row}
    return row


def _config_path() -> Path:
    named = os.environ.get("STARBOARD_CONFIG")
    path = Path(named) if named else DEFAULT_CONFIG
    if named and not path.is_file():
        raise SettingsError(f"STARBOARD_CONFIG names {path}, which is not a file")
    if path.is_file():
        try:
            tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: {error}") from error
    return path
