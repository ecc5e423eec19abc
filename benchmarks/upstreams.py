"""The tests' fake vendors as a process of their own, so that their work is not the service's.

    python benchmarks/upstreams.py [--delay 0.2] [--characters 300] [--fault-every 10]

Prints one line of JSON, where each listens, and serves until it is told to stop.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress

from tests.fakes.anthropic import AnthropicFake
from tests.fakes.google import GoogleFake
from tests.fakes.mistral import MistralFake
from tests.fakes.nvidia import NvidiaFake
from tests.fakes.openai_compatible import OpenAICompatibleFake
from tests.fakes.server import FakeServer

KEY = "sk-of-the-benchmark-0123456789"
VENDORS: Mapping[str, Callable[..., FakeServer]] = {
    "anthropic": AnthropicFake,
    "google": GoogleFake,
    "mistral": MistralFake,
    "nvidia": NvidiaFake,
    "openai": OpenAICompatibleFake,
}
FAULTS = (
    "unavailable_503",
    "reset_mid_body",
    "truncated_json",
    "rate_limited_429",
    "hang",
    "html_502",
    "unauthorized_401",
)
REPLY = "Air scatters blue light more than red, so blue reaches us from every side. "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each reply")
    parser.add_argument("--characters", type=int, default=300, help="of each reply")
    parser.add_argument(
        "--fault-every", type=int, help="seconds, after which each vendor fails one call"
    )
    given = parser.parse_args()
    asyncio.run(serve(given.delay, given.characters, given.fault_every))


async def serve(delay_s: float, characters: int, fault_every_s: int | None) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with AsyncExitStack() as stack:
        fakes = {
            name: await stack.enter_async_context(fake(api_key=KEY, delay_s=delay_s))
            for name, fake in VENDORS.items()
        }
        text = (REPLY * (characters // len(REPLY) + 1))[:characters]
        for fake in fakes.values():
            fake.reply = text
        fakes["openai"].models = tuple(f"m{number}" for number in range(16))
        print(json.dumps({name: fake.base_url for name, fake in fakes.items()}), flush=True)
        faults = itertools.cycle(FAULTS)
        for second in itertools.count(1):
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), timeout=1)
                return
            for fake in fakes.values():
                if fault_every_s and second % fault_every_s == 0 and fake.requests:
                    fake.fail_once(next(faults))
                fake.requests.clear()  # memory is for the service


if __name__ == "__main__":
    main()
