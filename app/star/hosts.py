"""A provider as a sampler: any member of the board, or any OpenAI-compatible host.

So many prompts are under way at a time, whatever shards they belong to, and a shard is given back
when its last prompt is done. What may pass is tried again for some minutes; what then still fails
is a `Failure` in its place. Draws are the host's own: a shard sampled again reads otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from app.domain import Failure, Prompt
from app.errors import RETRYABLE, ConfigurationError
from app.model_folders import weights_sha256
from app.providers import Provider
from app.providers.http import bearer_headers, get_json, post, upstream
from app.providers.openai_compatible import OpenAICompatibleProvider
from app.retries import Retries, limited
from app.star.sampling import Outcome, Shards

CONCURRENCY = 16
TIMEOUT_S = 120.0
# Some three minutes of waits in all, where the host names none. Nobody waits for one reply here,
# and a limit by the minute is over within the longest wait.
RETRIES = Retries(attempts=8, backoff_s=(1.0, 2.0), longest_wait_s=120.0)
# What says nothing of the prompt: the host is down, or does not let us in.
OF_THE_HOST = RETRYABLE | {"auth"}


@dataclass(frozen=True)
class HostSampler:
    """`timeout_s` limits one attempt. Cancelling the iteration cancels every call under way.

    A shard of which the host answered nothing at all is not given back, it raises
    `ConfigurationError`: rows that only say that a host was down would stand for good.
    """

    provider: Provider
    concurrency: int = CONCURRENCY
    timeout_s: float = TIMEOUT_S
    retries: Retries = RETRIES

    @property
    def name(self) -> str:
        return self.provider.name

    async def sample(self, shards: Shards) -> AsyncGenerator[tuple[int, list[Outcome]], None]:
        found: dict[int, dict[int, Outcome]] = {number: {} for number in shards}
        done: asyncio.Queue[int] = asyncio.Queue()
        for number, prompts in shards.items():
            if not prompts:
                done.put_nowait(number)
        waiting = (
            (number, place, prompt)
            for number, prompts in shards.items()
            for place, prompt in enumerate(prompts)
        )

        async def work() -> None:
            for number, place, prompt in waiting:
                found[number][place] = await self._outcome(prompt)
                if len(found[number]) == len(shards[number]):
                    done.put_nowait(number)

        prompts_in_all = sum(map(len, shards.values()))
        workers = [
            asyncio.create_task(work()) for _ in range(min(self.concurrency, prompts_in_all))
        ]
        try:
            for _ in shards:
                number = await done.get()
                outcomes = found.pop(number)
                in_order = [outcomes[place] for place in range(len(outcomes))]
                refuse_silence(self.name, in_order)
                yield number, in_order
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _outcome(self, prompt: Prompt) -> Outcome:
        return await self.retries.outcome(
            self.name,
            lambda: limited(self.name, lambda: self.provider.complete(prompt), self.timeout_s),
        )


def refuse_silence(name: str, outcomes: Sequence[object]) -> None:
    """Raise `ConfigurationError` if all of a shard are failures that say nothing of the prompts."""
    if outcomes and len(_lost(outcomes)) == len(outcomes):
        refuse_outage(name, outcomes)


def refuse_outage(name: str, outcomes: Sequence[object]) -> None:
    """Raise `ConfigurationError` if a single one of a shard is such a failure."""
    if lost := _lost(outcomes):
        raise ConfigurationError(
            f"{name} answered {len(outcomes) - len(lost)} of {len(outcomes)} prompts"
            f" ({lost[0].message}): see that it is up and lets us in, then give the same command"
            " again"
        )


def _lost(outcomes: Sequence[object]) -> list[Failure]:
    return [one for one in outcomes if isinstance(one, Failure) and one.kind in OF_THE_HOST]


async def load_adapter(host: OpenAICompatibleProvider, adapter: Path) -> str:
    """Have vLLM load the adapter in a folder that it sees under the same path; the name it then
    answers to, which is made of the weights, so that the same adapter is loaded once.

    https://docs.vllm.ai/en/latest/features/lora/. Raises `ConfigurationError` if the host has no
    such route or cannot load it, `UpstreamError` if it is not there.
    """
    name = f"{adapter.parent.name}-{weights_sha256(adapter)[:12]}"
    headers = bearer_headers(host.api_key)
    match await get_json(host.http, host.name, f"{host.base_url}/models", headers=headers):
        case {"data": list(models)} if any(one == {**one, "id": name} for one in models):
            return name
    with upstream(host.name):
        reply = await post(
            host.http,
            f"{host.base_url}/load_lora_adapter",
            {"lora_name": name, "lora_path": str(Path.cwd() / adapter)},
            headers=headers,
        )
    if reply.status >= HTTPStatus.MULTIPLE_CHOICES:
        raise ConfigurationError(
            f"{host.name} did not load {adapter} ({reply.status}): it must see that path,"
            " and vLLM must be started with --enable-lora, --max-lora-rank and"
            " VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
        )
    return name
