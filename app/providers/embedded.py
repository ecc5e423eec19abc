"""Small models inside this process, on llama.cpp through `xllamacpp`.

A demonstration that needs no key and no model hub: SmolLM2-135M is wrong more often than right.
One engine per model file (`model_files.py`) serves all its seats; concurrent prompts share its
batch.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import xllamacpp

from app.domain import NOTHING, Completion, Prompt, Usage
from app.errors import ConfigurationError, UpstreamError
from app.providers.http import completion
from app.providers.openai_compatible import FINISH_REASONS, chat_body


def default_threads() -> int:
    """Physical cores minus one, at least one: on a saturated machine decoding crawls."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (usable or 1) // _threads_per_core() - 1)


def _threads_per_core() -> int:
    try:
        siblings = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list").read_text()
    except OSError:
        return 1
    return len(siblings.replace("-", ",").strip().split(","))


@dataclass(frozen=True)
class Generation:
    """Raw text of one run of the engine."""

    text: str
    finish_reason: str
    usage: Usage | None


class Engine:
    """One loaded model file. `slots` prompts are decoded as one batch; further ones queue.

    Threads wait for the C++ engine, which releases the interpreter lock, so the event loop goes
    on. `context_tokens` is per slot; `adapter` is a LoRA adapter as GGUF. Close with `close()`.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int,
        slots: int,
        context_tokens: int,
        adapter: Path | None = None,
    ) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        if adapter is not None:
            if not adapter.is_file():
                raise ConfigurationError(f"{adapter}, an adapter, is no file")
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        params.n_parallel = slots
        params.n_ctx = slots * context_tokens
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.verbosity = 0
        params.ui = False
        params.endpoint_slots = False
        # The default keeps up to 8 GiB of past prompts in memory.
        params.cache_ram_mib = 0
        # The engine listens on a loopback port whether we use it or not: lock it.
        params.api_keys = [secrets.token_urlsafe(32)]
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            what = f"{path} with {adapter}" if adapter else path
            raise ConfigurationError(f"{what} cannot be loaded: {error}") from error
        # One token, so that the engine's own thread is surely at work: an engine that is closed
        # before its thread has begun waits for it for ever.
        self._server.handle_completions({"prompt": "a", "n_predict": 1})
        self._pool = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="embedded")

    async def generate(
        self, kind: Literal["chat", "text"], body: Mapping[str, object]
    ) -> Generation:
        """Run one request; when cancelled, decoding stops at the next token."""
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            chunks = await loop.run_in_executor(self._pool, self._run, kind, body, stop)
        finally:
            stop.set()
        return _generation(chunks)

    def close(self) -> None:
        """Stop the engine; running requests end first."""
        self._pool.shutdown(cancel_futures=True)
        del self._server

    def _run(
        self, kind: Literal["chat", "text"], body: Mapping[str, object], stop: threading.Event
    ) -> list[object]:
        chunks: list[object] = []

        def keep(chunk: object) -> bool:
            chunks.append(chunk)
            return stop.is_set()

        streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
        if kind == "chat":
            self._server.handle_chat_completions(streamed, keep)
        else:
            self._server.handle_completions(streamed, keep)
        return chunks


@dataclass(frozen=True)
class EmbeddedProvider:
    """A seat on an embedded model. `temperature` applies where the prompt sets none.

    `chat` is False for a base model without a chat template.
    """

    name: str
    model: str
    engine: Engine
    temperature: float = 0.0
    seed: int = 7
    chat: bool = True

    async def complete(self, prompt: Prompt) -> Completion:
        warmth = self.temperature if prompt.temperature is None else prompt.temperature
        sampling = {"temperature": warmth, "seed": self.seed + prompt.sample}
        if self.chat:
            body = {**chat_body(self.model, prompt), **sampling}
            generation = await self.engine.generate("chat", body)
        else:
            body = {**_text_body(prompt), **sampling}
            generation = await self.engine.generate("text", body)
        return completion(
            self.name,
            generation.text.strip(),
            FINISH_REASONS.get(generation.finish_reason, "other"),
            model=self.model,
            usage=generation.usage,
        )

    async def ping(self) -> None:
        return None


def _text_body(prompt: Prompt) -> Mapping[str, object]:
    """A base model has no roles: it is shown a list of questions and answers to go on with."""
    labels = {"user": "Question", "assistant": "Answer"}
    turns = (f"{labels[turn.role]}: {turn.content}" for turn in prompt.turns_with_system_folded)
    return {
        "prompt": "\n".join([*turns, "Answer:"]),
        "n_predict": prompt.max_tokens,
        "stop": ["\nQuestion:"],
    }


def _generation(chunks: Sequence[object]) -> Generation:
    text, finish_reason, usage = "", "", None
    for chunk in chunks:
        match chunk:
            case {"error": {"type": "exceed_context_size_error", "n_ctx": limit}}:
                message = f"the prompt is longer than the {limit} tokens of an embedded slot"
                raise UpstreamError("refused_request", message, usage=NOTHING)
            case {"error": _}:
                raise UpstreamError("internal", "the embedded engine refused the prompt")
            case {"choices": [{"delta": {"content": str(piece)}}]}:
                text += piece
            case {"choices": [{"text": str(piece)}]}:
                text += piece
        match chunk:
            case {"choices": [{"finish_reason": str(reason)}]}:
                finish_reason = reason
        match chunk:
            case {"usage": {"prompt_tokens": int(prompt), "completion_tokens": int(output)}}:
                usage = Usage(prompt, output)
    return Generation(text, finish_reason, usage)
