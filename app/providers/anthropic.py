"""Claude through the `anthropic` package (Messages API, docs.anthropic.com/en/api/messages)."""

from __future__ import annotations

from dataclasses import dataclass

import anthropic
from anthropic.types import MessageParam

from app.domain import Completion, FinishReason, Message, Prompt, Usage
from app.errors import UpstreamError
from app.providers.http import Http, completion, decoded, retry_after, status_error, upstream

# Models that still take `temperature`; newer ones answer 400 to it. A model that is missing here
# only loses its temperature, and the answer reports that.
TAKES_TEMPERATURE = (
    "claude-3",
    "claude-haiku-4-5",
    "claude-opus-4-1",
    "claude-opus-4-5",
    "claude-opus-4-6",
    "claude-sonnet-4-5",
    "claude-sonnet-4-6",
)

# The package asks for a later version of the API, which has no sampling parameters at all.
SAMPLING_VERSION = {"anthropic-version": "2023-06-01"}

_FINISH_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}


@dataclass(frozen=True)
class AnthropicProvider:
    """A Claude model."""

    name: str
    model: str
    client: anthropic.AsyncAnthropic

    async def complete(self, prompt: Prompt) -> Completion:
        takes_temperature = self.model.startswith(TAKES_TEMPERATURE)
        if prompt.temperature is None or not takes_temperature:
            dropped = () if prompt.temperature is None else ("temperature",)
            return self._completion(await self._send(prompt), dropped)
        try:
            return self._completion(await self._send(prompt, prompt.temperature))
        except UpstreamError as error:
            # The table above can be out of date, and a 400 bills nothing: ask once without.
            if not isinstance(error.__cause__, anthropic.BadRequestError):
                raise
        # Not inside the handler: this call's errors must not have that one among their causes.
        return self._completion(await self._send(prompt), ("temperature",))

    async def ping(self) -> None:
        with upstream(self.name):
            try:
                await self.client.models.retrieve(self.model)
            except anthropic.APIStatusError as error:
                raise _status_error(self.name, error) from error

    async def _send(self, prompt: Prompt, temperature: float | None = None) -> object:
        turns: list[MessageParam] = [_wire_turn(turn) for turn in prompt.turns]
        with upstream(self.name):
            try:
                # Read without the package's models, which cost several times as much.
                response = await self.client.messages.with_raw_response.create(
                    model=self.model,
                    max_tokens=prompt.max_tokens,
                    messages=turns,
                    system=prompt.system or anthropic.omit,
                    extra_body={} if temperature is None else {"temperature": temperature},
                    extra_headers={} if temperature is None else SAMPLING_VERSION,
                )
            except anthropic.APIStatusError as error:
                raise _status_error(self.name, error) from error
            return decoded(response.http_response.content)

    def _completion(self, reply: object, dropped: tuple[str, ...] = ()) -> Completion:
        match reply:
            case {"content": list(blocks)}:
                pass
            case _:
                raise UpstreamError("bad_reply", f"{self.name}: the reply is not a message")
        return completion(
            self.name,
            "".join(_text(block) for block in blocks),
            _finish_reason(reply),
            model=_model(reply) or self.model,
            usage=_usage(reply),
            dropped_parameters=dropped,
        )


def open_anthropic(
    name: str, model: str, *, api_key: str, base_url: str | None, http: Http
) -> AnthropicProvider:
    """A provider on the shared client, with the package's own retries and timeout off."""
    client = anthropic.AsyncAnthropic(
        api_key=api_key,
        base_url=base_url,
        http_client=http.packages,
        max_retries=0,
        timeout=None,
        open_telemetry=False,  # spans are ours, and a `traceparent` goes to no vendor
    )
    return AnthropicProvider(name, model, client)


def _status_error(name: str, error: anthropic.APIStatusError) -> UpstreamError:
    return status_error(name, error.status_code, retry_after(error.response.headers))


def _wire_turn(turn: Message) -> MessageParam:
    if turn.role == "assistant":
        return {"role": "assistant", "content": turn.content}
    return {"role": "user", "content": turn.content}


def _text(block: object) -> str:
    match block:
        case {"type": "text", "text": str(text)}:
            return text
    return ""


def _finish_reason(reply: object) -> FinishReason:
    match reply:
        case {"stop_reason": str(reason)}:
            return _FINISH_REASONS.get(reason, "other")
    return "other"


def _model(reply: object) -> str | None:
    match reply:
        case {"model": str(model)}:
            return model
    return None


def _usage(reply: object) -> Usage | None:
    """Billed tokens; what went to or came from the prompt cache counts as input."""
    match reply:
        case {"usage": {"input_tokens": int(read), "output_tokens": int(wrote)} as counts}:
            names = "cache_creation_input_tokens", "cache_read_input_tokens"
            cached = [counts.get(name) or 0 for name in names]
            if all(isinstance(count, int) for count in cached):
                return Usage(read + sum(cached), wrote)
    return None
