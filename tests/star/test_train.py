"""Training with the real trainer, on tiny models of the five families."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from app.domain import Completion, Message, Prompt
from app.errors import ConfigurationError, DataError
from app.star.dataset import Row, TrainingRows
from app.star.sampling import open_local_sampler
from app.star.train import CHECKPOINTS, TARGETS, Training, targets, train
from tests.star.tiny import FAMILIES, LINEAR, save_causal

# As many steps as it takes to learn four replies by heart.
BY_HEART = Training(epochs=24, learning_rate=2e-2, batch=4, micro_batch=2, max_tokens=64, rank=8)
REPLIES = {"a": "one + two", "b": "three", "c": "What is four?", "d": "The answer is 5."}


def row(question: str, reply: str) -> Row:
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": reply}],
    }


ROWS = TrainingRows([row(question, reply) for question, reply in REPLIES.items()])


def silent(done: int, total: int) -> None:
    """Nobody watches."""


def said(base: Path, adapter: Path | None) -> list[str]:
    sampler = open_local_sampler(str(base), adapter)
    prompts = [Prompt((Message("user", question),), 16) for question in REPLIES]
    return [o.text if isinstance(o, Completion) else "" for o in sampler.completions(prompts)]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_memorizable_set_is_memorized(tmp_path: Path, family: str) -> None:
    base = save_causal(tmp_path / "base", family, scale=0.1)
    told: list[tuple[int, int]] = []
    out = tmp_path / "run" / "adapter"
    losses = train(str(base), ROWS, BY_HEART, out, lambda *steps: told.append(steps))
    assert told == [(n, 24) for n in range(1, 25)]
    assert losses["sft"] < 0.1  # a random model begins at 5.6
    assert json.loads((out / "losses.json").read_text()) == losses
    assert said(base, out) == list(REPLIES.values())
    assert said(base, None) != list(REPLIES.values())
    # Nothing is left but what it takes to load it.
    assert [path.name for path in out.parent.iterdir()] == ["adapter"]
    assert not {path.suffix for path in out.iterdir()} & {".bin", ".pt"}


@pytest.mark.parametrize(("rows", "steps"), [(1, 7), (4, 7), (3, 8)])
def test_few_rows_are_passed_over_until_there_are_steps_enough(
    tmp_path: Path, rows: int, steps: int
) -> None:
    base = save_causal(tmp_path / "base", "llama")
    few = TrainingRows(ROWS.supervised[:rows])
    plan = replace(BY_HEART, epochs=1, min_steps=7, batch=2 if rows == 3 else 4, micro_batch=2)
    told: list[tuple[int, int]] = []
    train(str(base), few, plan, tmp_path / "adapter", lambda *said: told.append(said))
    assert told[-1] == (steps, steps)


def test_rows_that_would_be_cut_off_are_left_out_and_counted(tmp_path: Path) -> None:
    base = save_causal(tmp_path / "base", "llama")
    long = [{**ROWS.supervised[0], "completion": [{"role": "assistant", "content": "a" * 400}]}]
    plan = replace(BY_HEART, epochs=1)
    out = tmp_path / "adapter"
    losses = train(str(base), TrainingRows([*ROWS.supervised, *long]), plan, out, silent)
    assert losses["too_long"] == 1
    assert json.loads((out / "losses.json").read_text()) == losses
    with pytest.raises(DataError, match="raise --max-row-tokens"):
        train(str(base), TrainingRows(long), plan, tmp_path / "other", silent)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_linear_layer_of_attention_and_feed_forward_is_adapted(
    tmp_path: Path, family: str
) -> None:
    base = save_causal(tmp_path / "base", family)
    train(str(base), ROWS, replace(BY_HEART, epochs=1), tmp_path / "adapter", silent)
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    found: dict[str, set[str]] = {}
    for name in weights:
        match = re.search(r"\.(\d+)\..*?(\w+)\.lora_[AB]\.weight$", name)
        assert match, name
        found.setdefault(match[1], set()).add(match[2])
    assert found == {"0": LINEAR[family], "1": LINEAR[family]}
    config = json.loads((base / "config.json").read_text())
    assert config["model_type"] in TARGETS


def test_a_family_that_is_not_listed_gets_all_linear_layers() -> None:
    assert targets("unheard_of") == "all-linear"


def test_the_loss_is_on_completions_alone(tmp_path: Path) -> None:
    """Questions that contradict the replies are not learned."""
    base = save_causal(tmp_path / "base", "llama", scale=0.1)
    rows = TrainingRows([row(f"{n} zzzz", "one") for n in range(4)])
    train(str(base), rows, BY_HEART, tmp_path / "adapter", silent)
    sampler = open_local_sampler(str(base), tmp_path / "adapter")
    found = sampler.completions([Prompt((Message("user", "0 zzzz"),), 8)])[0]
    assert isinstance(found, Completion)
    assert found.text == "one"
    import torch

    ids = sampler.language_model.ids(Prompt((Message("user", "0 zzzz"),)))
    with torch.inference_mode():
        logits = sampler.language_model.network(torch.tensor([ids])).logits[0, :-1]
    places = [place for place, token in enumerate(ids[1:]) if token == ids[-3]]
    assert len(places) == 4
    chance = logits.softmax(-1)[places, ids[-3]]
    assert chance.max() < 0.5


class KilledError(Exception):
    """As by a signal, for a test within one process."""


@pytest.mark.parametrize("step", [7, 11, 24])
def test_a_training_that_was_interrupted_ends_with_the_same_weights(
    tmp_path: Path, step: int
) -> None:
    base = save_causal(tmp_path / "base", "llama", scale=0.1)
    train(str(base), ROWS, BY_HEART, tmp_path / "whole", silent)

    def killed(done: int, total: int) -> None:
        if done == step:
            raise KilledError

    with pytest.raises(KilledError):
        train(str(base), ROWS, BY_HEART, tmp_path / "adapter", killed)
    told: list[int] = []
    train(str(base), ROWS, BY_HEART, tmp_path / "adapter", lambda done, _: told.append(done))
    every = math.ceil(BY_HEART.epochs / CHECKPOINTS)
    assert told[0] == (step - 1) // every * every + 1  # it did not begin anew
    one, other = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "adapter")
    )
    assert all(bool((one[name] == other[name]).all()) for name in one | other)
    assert not (tmp_path / "adapter.checkpoints").exists()


def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path: Path) -> None:
    base = save_causal(tmp_path / "base", "llama", scale=0.1)

    def killed(done: int, total: int) -> None:
        if done == 10:
            raise KilledError

    with pytest.raises(KilledError):
        train(str(base), ROWS, BY_HEART, tmp_path / "adapter", killed)
    checkpoints = tmp_path / "adapter.checkpoints" / "sft"
    for number, state in ((12, None), (16, "{")):
        broken = checkpoints / f"checkpoint-{number}"
        broken.mkdir()
        if state:
            (broken / "trainer_state.json").write_text(state)
    told: list[int] = []
    train(str(base), ROWS, BY_HEART, tmp_path / "adapter", lambda done, _: told.append(done))
    assert told[0] == 6


def test_dpo_follows_and_leaves_one_adapter(tmp_path: Path) -> None:
    base = save_causal(tmp_path / "base", "llama", scale=0.1)
    preferences: list[Row] = [
        {
            "prompt": [{"role": "user", "content": question}],
            "chosen": [{"role": "assistant", "content": reply}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for question, reply in REPLIES.items()
    ]
    rows = TrainingRows(ROWS.supervised, preferences)
    plan = replace(BY_HEART, dpo=True, dpo_learning_rate=1e-3)
    told: list[int] = []

    def killed(done: int, total: int) -> None:
        told.append(done)
        if len(told) == 24 + 10:
            raise KilledError

    with pytest.raises(KilledError):
        train(str(base), rows, plan, tmp_path / "adapter", killed)
    again: list[int] = []
    losses = train(str(base), rows, plan, tmp_path / "adapter", lambda done, _: again.append(done))
    assert again == list(range(6, 25))  # nothing of the supervised part, and the rest of DPO
    assert losses["dpo"] < 0.6  # log 2 where nothing is preferred
    assert losses["sft"] < 0.1
    assert [path for path in (tmp_path / "adapter").rglob("*") if path.is_dir()] == []
    assert said(base, tmp_path / "adapter") == list(REPLIES.values())
    whole = tmp_path / "whole"
    train(str(base), rows, plan, whole, silent)
    one, other = (
        load_file(folder / "adapter_model.safetensors") for folder in (whole, tmp_path / "adapter")
    )
    assert all(bool((one[name] == other[name]).all()) for name in one | other)


def test_what_cannot_be_trained_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rationale was kept"):
        train("nowhere", TrainingRows([]), BY_HEART, tmp_path / "adapter", silent)
    base = str(save_causal(tmp_path / "base", "llama"))
    with pytest.raises(ConfigurationError, match="batch of 4 cannot be made of 3"):
        train(base, ROWS, replace(BY_HEART, micro_batch=3), tmp_path / "adapter", silent)
    with pytest.raises(ConfigurationError, match="NVIDIA GPU"):
        train(base, ROWS, replace(BY_HEART, four_bit=True), tmp_path / "adapter", silent)
