"""Replies of embedded members to sums, several samples each, kept as rows of JSON.

    python benchmarks/replies.py sums.jsonl --problems 120 --members smollm2 smollm2-warm

What the file has is not asked again: stop and start at will. `benchmarks/quality.py` reads it. The
problems are `app.star.problems.sums`, shown with the five worked examples of `app.star.prompts`.
`gemma` needs the opt-in package of docs/configuration.md; others may not share its replies freely.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from app.domain import Completion, Prompt, Usage
from app.jsonl import read_rows
from app.model_files import MODEL_FILES, ModelName, model_path
from app.providers.embedded import EmbeddedProvider, Engine, default_threads
from app.star.problems import Problem, sums
from app.star.prompts import few_shot, shots_for

SLOTS = 8
MAX_TOKENS = 64
SEED = 1  # of the problems


@dataclass(frozen=True)
class Member:
    """A seat, how often it is asked, and the parameters of its model, in billions."""

    model: ModelName
    temperature: float
    samples: int
    parameters: float


# The two of the default board; the one at temperature 0 always says the same.
MEMBERS: Mapping[str, Member] = {
    "smollm2": Member("smollm2-135m-instruct", 0.0, 1, 0.135),
    "smollm2-warm": Member("smollm2-135m-instruct", 0.8, 8, 0.135),
    "gemma": Member("gemma-3-270m", 0.8, 2, 0.268),
}


@dataclass(frozen=True)
class Reply:
    """What a member said to a problem the `sample`th time it was asked."""

    problem: Problem
    member: str
    sample: int
    completion: Completion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="rows are read from it and added to it")
    parser.add_argument("--problems", type=int, default=120)
    parser.add_argument("--members", nargs="+", choices=MEMBERS, default=["smollm2"])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="for a model in parts")
    asked = parser.parse_args()
    for name in asked.members:
        wanted = missing(asked.file, name, sums(asked.problems, SEED))
        if wanted:
            asyncio.run(ask(asked.file, name, wanted, asked.threads, asked.cache))


def prompt(problem: Problem, sample: int = 0) -> Prompt:
    return Prompt(few_shot(problem, shots_for(problem)), max_tokens=MAX_TOKENS, sample=sample)


def missing(file: Path, name: str, problems: Sequence[Problem]) -> list[tuple[Problem, int]]:
    """The problems, and the numbers of the samples, that the file has not for this member."""
    there = {(r.problem.id, r.sample) for r in read(file) if r.member == name}
    every = ((problem, n) for problem in problems for n in range(MEMBERS[name].samples))
    return [(problem, n) for problem, n in every if (problem.id, n) not in there]


async def ask(
    file: Path, name: str, wanted: Sequence[tuple[Problem, int]], threads: int, cache: Path
) -> None:
    member = MEMBERS[name]
    path = model_path(member.model, cache)
    engine = Engine(path, threads=threads, slots=SLOTS, context_tokens=1024)
    chat = MODEL_FILES[member.model].chat
    provider = EmbeddedProvider(name, member.model, engine, member.temperature, chat=chat)
    try:
        for start in track(range(0, len(wanted), SLOTS), f"asking {name}"):
            some = wanted[start : start + SLOTS]
            said = await asyncio.gather(*(provider.complete(prompt(*one)) for one in some))
            rows = [_row(name, *one, said_) for one, said_ in zip(some, said, strict=True)]
            with file.open("a", encoding="utf-8") as out:
                out.writelines(json.dumps(row) + "\n" for row in rows)
    finally:
        engine.close()


def _row(name: str, problem: Problem, sample: int, said: Completion) -> dict[str, object]:
    assert said.usage is not None
    return {
        "problem": problem.id,
        "member": name,
        "sample": sample,
        "text": said.text,
        "finish_reason": said.finish_reason,
        "input_tokens": said.usage.input_tokens,
        "output_tokens": said.usage.output_tokens,
    }


def read(file: Path) -> Iterator[Reply]:
    """The replies of a file, none if it is not there."""
    problems = {one.id: one for one in sums(1000, SEED)}
    for where, row in read_rows(file) if file.exists() else ():
        match row:
            case {
                "problem": str(id_),
                "member": str(name),
                "sample": int(sample),
                "text": str(text),
                "finish_reason": ("stop" | "length") as reason,
                "input_tokens": int(read_),
                "output_tokens": int(written),
            } if id_ in problems and name in MEMBERS:
                usage = Usage(read_, written)
                said = Completion(text, reason, MEMBERS[name].model, usage)
                yield Reply(problems[id_], name, sample, said)
            case _:
                raise SystemExit(f"{where}: not a row of this command")


if __name__ == "__main__":
    main()
