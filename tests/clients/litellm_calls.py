"""litellm as a process of its own, which makes one call for each line of its standard input.

A line is the arguments of `litellm.completion` as JSON, or of `litellm.acompletion` if they ask
for a stream. It is answered by a line: {"reply": …}, {"chunks": […]}, or {"error", "status",
"message"}.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import litellm
import openai


async def made(call: dict[str, Any]) -> dict[str, Any]:
    try:
        if call.get("stream"):
            stream = await litellm.acompletion(**call)
            return {"chunks": [chunk.model_dump() async for chunk in stream]}
        return {"reply": litellm.completion(**call).model_dump()}
    except openai.APIStatusError as error:  # litellm's errors are kinds of it
        kind = type(error).__name__
        return {"error": kind, "status": error.status_code, "message": error.message}


async def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # litellm prints advice when a call fails
    for line in sys.stdin:
        answers.write(json.dumps(await made(json.loads(line)), default=str) + "\n")
        answers.flush()


asyncio.run(main())
