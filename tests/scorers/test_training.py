"""`starboard scorer train` with the real trainer, on tiny models of the real architectures."""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from app.cli import app
from app.domain import ATTRIBUTES, Attributes, Completion, Message, Prompt, ScalarReward
from app.errors import ConfigurationError
from app.scorers.examples import Example
from app.scorers.local import open_local_scorer
from app.scorers.reading import Reading
from app.scorers.report import measure
from app.scorers.training import (
    MIDDLE,
    Item,
    Parts,
    Recipe,
    bradley_terry,
    parted,
    regression,
    train,
)
from tests.scorers.tiny import save_decoder, save_encoder


def asked(text: str) -> Prompt:
    return Prompt((Message("user", text),))


def pairs(count: int, source: str = "s", start: int = 0) -> list[Example]:
    """Replies of which the one with exclamation marks is the better one."""
    return [
        Example(source, asked(f"question {n}"), (f"reply {n} !!!!", f"reply {n} ????"))
        for n in range(start, start + count)
    ]


def labelled(count: int) -> list[Example]:
    """Helpfulness and correctness go by the mark, verbosity against it, the rest stand still."""
    return [
        Example(
            "labelled",
            asked(f"question {n // 2}"),
            (f"reply {'!!!!' if good else '????'}",),
            ((4.0, 3.0, 2.0, 1.0, 0.0) if good else (0.0, 1.0, 2.0, 1.0, 4.0),),
        )
        for n in range(count)
        for good in [n % 2 == 0]
    ]


def recipe(base: Path, **changes: Any) -> Recipe:
    plain = Recipe(str(base), epochs=4, learning_rate=1e-2, batch=8, max_tokens=64, spoiled=0)
    return replace(plain, **changes)


def silent(done: int, total: int) -> None:
    """Nobody watches."""


async def test_a_head_from_pairs_orders_prompts_it_never_saw(tmp_path: Path) -> None:
    base = save_decoder(tmp_path / "base")
    plan = recipe(base, held_out=("other",))
    parts = parted([*pairs(80), *pairs(60, "other", start=500)], plan)
    told: list[tuple[int, int]] = []
    head = train(parts, plan, tmp_path / "out", lambda *steps: told.append(steps))
    assert told == [(n, len(told)) for n in range(1, len(told) + 1)]
    async with open_local_scorer(str(head)) as scorer:
        for n in (900, 901):
            rewards = []
            for mark in ("!!!!", "????"):
                completion = Completion(f"reply {n} {mark}", "stop", "m")
                outcome = (await scorer.score(asked(f"question {n}"), completion)).outcome
                assert isinstance(outcome, ScalarReward)
                rewards.append(outcome.value)
            assert rewards[0] > rewards[1]
    seen: list[None] = []
    report = await measure(head, parts, plan, tmp_path / "out", lambda: seen.append(None))
    assert len(seen) == len(parts.validation) + len(parts.held_out)
    assert [row.source for row in report.evaluations] == ["validation", "other"]
    assert report.evaluations[1].accuracy.value == 1
    assert "| other | 60 | 100.0%" in (tmp_path / "out/report.md").read_text()
    assert (tmp_path / "out/held-out.svg").is_file()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
async def test_a_head_from_labels_gives_the_five_attributes(tmp_path: Path, family: str) -> None:
    base = save_decoder(tmp_path / "base", family)
    plan = recipe(base, epochs=8)
    parts = parted(labelled(160), plan)
    head = train(parts, plan, tmp_path / "out", silent)
    config = json.loads((head / "config.json").read_text())
    assert [config["id2label"][str(n)] for n in range(5)] == list(ATTRIBUTES)
    async with open_local_scorer(str(head)) as scorer:
        completion = Completion("reply !!!!", "stop", "m")
        outcome = (await scorer.score(asked("question 999"), completion)).outcome
        assert isinstance(outcome, Attributes)
        assert astuple(outcome) == pytest.approx((4, 3, 2, 1, 0), abs=0.8)
        report = await measure(head, parts, plan, tmp_path / "out", lambda: None)
    assert report.evaluations[0].accuracy.value == 1
    assert "| helpfulness |" in report.text
    assert (tmp_path / "out/reliability.svg").is_file()


async def test_the_resolution_is_measured_and_served(tmp_path: Path) -> None:
    """Of two labels of which one in four is turned round, no margin makes certain."""
    base = save_decoder(tmp_path / "base")
    plan = recipe(base, validation=0.5, epochs=2)
    noisy = [
        replace(e, replies=e.replies[::-1]) if n % 5 == 0 else e for n, e in enumerate(pairs(200))
    ]
    parts = parted(noisy, plan)
    head = train(parts, plan, tmp_path / "out", silent)
    report = await measure(head, parts, plan, tmp_path / "out", lambda: None)
    assert report.resolution
    async with open_local_scorer(str(head)) as scorer:
        assert scorer.info.resolution == report.resolution
    async with open_local_scorer(str(head), resolution=0.7) as scorer:
        assert scorer.info.resolution == 0.7


async def test_an_encoder_and_a_frozen_base_can_be_trained(tmp_path: Path) -> None:
    base = save_encoder(tmp_path / "base", ("reward",))
    plan = recipe(base, tune="head", learning_rate=3e-2, epochs=12)
    head = train(parted(pairs(80), plan), plan, tmp_path / "out", silent)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, head))
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"classifier.weight", "classifier.bias"}
    async with open_local_scorer(str(head)) as scorer:
        better, worse = [
            (await scorer.score(asked("question"), Completion(text, "stop", "m"))).outcome
            for text in ("reply !!!!", "reply ????")
        ]
        assert isinstance(better, ScalarReward)
        assert isinstance(worse, ScalarReward)
        assert better.value > worse.value


def test_an_interrupted_run_goes_on_to_the_same_head(tmp_path: Path) -> None:
    base = save_decoder(tmp_path / "base")
    plan = recipe(base, spoiled=0.5)
    parts = parted(pairs(80), plan)
    whole = train(parts, plan, tmp_path / "whole", silent)

    def pull_the_plug(done: int, total: int) -> None:
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(parts, plan, tmp_path / "cut", pull_the_plug)
    assert not (tmp_path / "cut/head").exists()
    told: list[int] = []
    resumed = train(parts, plan, tmp_path / "cut", lambda done, _: told.append(done))
    assert told[0] > 1
    for name, weights in load_file(whole / "model.safetensors").items():
        assert torch.allclose(load_file(resumed / "model.safetensors")[name], weights, atol=1e-6)
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["head", "training.json"]


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    base = save_decoder(tmp_path / "base")
    plan = recipe(base, epochs=0.1)
    parts = parted(pairs(20), plan)
    head = train(parts, plan, tmp_path / "out", silent)
    told: list[int] = []
    assert train(parts, plan, tmp_path / "out", lambda done, _: told.append(done)) == head
    assert told == []
    with pytest.raises(ConfigurationError, match="other data, settings or versions"):
        train(parts, replace(plan, seed=8), tmp_path / "out", silent)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    parts = Parts(pairs(2), [], [], 0)
    with pytest.raises(ConfigurationError, match="not empty"):
        train(parts, recipe(tmp_path / "base"), tmp_path, silent)


@pytest.mark.parametrize("base", ["config.json", None])
def test_a_base_that_is_none_is_said_plainly(tmp_path: Path, base: str | None) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    if base:
        (folder / base).write_text("{}")
    with pytest.raises(ConfigurationError, match="does not load as a base"):
        train(Parts(pairs(2), [], [], 0), recipe(folder), tmp_path / "out", silent)


def test_held_out_sets_take_their_prompts_with_them() -> None:
    plan = recipe(Path("base"), held_out=("other",), validation=0)
    same = Example("s", asked("QUESTION  500"), ("b", "w"))
    parts = parted([*pairs(3), same, *pairs(1, "other", start=500)], plan)
    assert (parts.training, parts.leaking) == (pairs(3), 1)
    with pytest.raises(ConfigurationError, match="no set named nowhere to hold out; there are s"):
        parted(pairs(3), replace(plan, held_out=("nowhere",)))
    with pytest.raises(ConfigurationError, match="nothing is left"):
        parted(pairs(3), replace(plan, held_out=("s",)))


def test_losses_against_numbers_worked_out_by_hand() -> None:
    outputs = torch.tensor([[1.0] * 5, [-2.0] * 5])
    rows = [Item([], ((3.0, 3.0, 3.0, 3.0, 1.0), (0.0, 0.0, None, None, None)))]
    # Off by nothing but verbosity, by two: 4 over seven labels.
    assert regression(outputs, rows).item() == pytest.approx(4 / 7)
    assert MIDDLE == 2
    three = [Item([Reading((1,), (), 0, 1)] * 3, None)]
    # Margins 1, 3 and 2; and the square of the mean, -4/3, times the centring.
    rewards = torch.tensor([[0.0], [-1.0], [-3.0]])
    losses = [torch.log1p(torch.exp(torch.tensor(-m))).item() for m in (1.0, 3.0, 2.0)]
    assert bradley_terry(rewards, three).item() == pytest.approx(
        sum(losses) / 3 + 0.01 * 16 / 9, rel=1e-5
    )


def test_the_command_trains_measures_and_says_where_the_head_is(tmp_path: Path) -> None:
    base = save_decoder(tmp_path / "base")
    data = tmp_path / "pairs.jsonl"
    rows = [
        {"set": e.source, "prompt": e.prompt.turns[0].content, "better": b, "worse": w}
        for e in [*pairs(40), *pairs(10, "other", start=500)]
        for b, w in [e.replies]
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    options = ["--held-out", "other", "--batch", "8", "--max-tokens", "64"]
    result = CliRunner().invoke(
        app,
        ["scorer", "train", str(data), "--out", str(out), "--base", str(base), *options],
        env={"COLUMNS": "200"},
    )
    assert result.exit_code == 0, result.output
    assert "| other | 10 |" in result.stdout
    assert f'model = "{out / "head"}"' in result.stderr
