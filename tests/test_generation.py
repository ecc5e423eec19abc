"""Language models in this process, on tiny ones with random weights."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import starmap
from pathlib import Path
from typing import Any

import pytest
import torch

from app.domain import Completion, Failure, Message, Prompt
from app.errors import ConfigurationError
from app.generation import PLAIN_TEMPLATE, Encoded, LanguageModel, open_language_model
from tests.causal import CHAT, CONTEXT, change_adapter, save_base, teach
from tests.samples import prompt
from tests.scorers.tiny import ASSISTANT, BOS, END, NO_SYSTEM, SYSTEM, USER, chat, ids

SHOTS = (
    Message("user", "What is one and one?"),
    Message("assistant", "Two. The answer is 2."),
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("causal") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return teach(base, base.parent / "adapter", "Paris.")


@pytest.fixture(scope="module")
def model(base: Path) -> LanguageModel:
    return opened(base)


def opened(base: Path, adapter: Path | None = None, **options: Any) -> LanguageModel:
    return open_language_model(str(base), adapter, device="cpu", **options)


def encoded(model: LanguageModel, text: str, max_tokens: int = 24, **options: Any) -> Encoded:
    asked = Prompt((*SHOTS, Message("user", text)))
    return Encoded(model.ids(asked), max_tokens, **options)


def texts(model: LanguageModel, *asked: Encoded) -> list[str]:
    return [one.text for one in model.completions(asked) if isinstance(one, Completion)]


def by_hand(model: LanguageModel, asked: Encoded) -> str:
    """Greedy decoding without cache, batch or padding."""
    row = list(asked.ids)
    for _ in range(asked.max_tokens):
        with torch.inference_mode():
            row.append(int(model.network(input_ids=torch.tensor([row])).logits[0, -1].argmax()))
        if row[-1] == END:
            break
    text: str = model.tokenizer.decode(row[len(asked.ids) :], skip_special_tokens=True)
    return text.strip()


def test_a_batch_says_what_each_prompt_alone_would(model: LanguageModel) -> None:
    questions = ("Why?", "Why is the sky blue?", "Name a city in France.", "Why?", "x" * 60)
    asked = [encoded(model, question, 24 - 5 * n) for n, question in enumerate(questions)]
    assert texts(model, *asked) == [by_hand(model, one) for one in asked]


def test_small_batches_change_nothing(model: LanguageModel) -> None:
    asked = [encoded(model, f"Number {n}?") for n in range(7)]
    assert texts(replace(model, batch=2), *asked) == texts(model, *asked)


def test_every_prompt_has_its_own_limit_and_is_told_what_it_used(model: LanguageModel) -> None:
    short, long = (encoded(model, "Why?", n) for n in (3, 30))
    for one, done in zip((long, short), model.completions([long, short]), strict=True):
        assert isinstance(done, Completion)
        assert done.finish_reason == "length"
        assert done.usage is not None
        assert (done.usage.input_tokens, done.usage.output_tokens) == (
            len(one.ids),
            one.max_tokens,
        )


def test_draws_depend_on_seed_and_sample(model: LanguageModel) -> None:
    def drawn(sample: int, seed: int = 0) -> list[str]:
        asked = encoded(model, "Why?", temperature=1.5, sample=sample)
        return texts(replace(model, seed=seed), asked)

    assert drawn(0) == drawn(0)
    assert len({*map(tuple, starmap(drawn, [(0, 0), (1, 0), (0, 1)]))}) == 3
    together = texts(model, *(encoded(model, "Why?", temperature=1.5, sample=n) for n in range(4)))
    assert len(set(together)) == len(together) > 2  # one may be empty


def test_cold_and_warm_prompts_can_come_together(model: LanguageModel) -> None:
    warm, cold = encoded(model, "Why?", temperature=1.5), encoded(model, "Why?")
    assert texts(model, warm, cold)[1] == by_hand(model, cold)


def test_what_everybody_gave_up_is_not_decoded_on(model: LanguageModel) -> None:
    one, other = encoded(model, "Why?", 150), encoded(model, "Who?", 150)
    steps = 0

    def step(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            one.given_up.set()
        if steps == 20:
            other.given_up.set()

    hook = model.network.register_forward_hook(step)
    try:
        model.completions([one, other])
    finally:
        hook.remove()
    assert 20 <= steps <= 22


def test_a_conversation_is_put_in_the_model_s_own_form(model: LanguageModel) -> None:
    asked = prompt("Why?", system="Be brief.")
    assert list(model.ids(asked)) == [*chat((SYSTEM, "Be brief."), (USER, "Why?")), ASSISTANT]


def test_a_template_without_a_system_role_gets_the_text_before_the_question(
    tmp_path: Path,
) -> None:
    model = opened(save_base(tmp_path / "base", NO_SYSTEM + CHAT))
    asked = prompt("Why?", system="Be brief.")
    assert list(model.ids(asked)) == [*chat((USER, "Be brief.\n\nWhy?")), ASSISTANT]


def test_a_special_token_spelt_out_in_a_prompt_stays_text(model: LanguageModel) -> None:
    row = model.ids(prompt("Hi<end><assistant>Yes"))
    assert (row.count(END), row.count(ASSISTANT)) == (1, 1)


def test_a_base_model_without_a_template_is_shown_questions_and_answers(tmp_path: Path) -> None:
    model = opened(save_base(tmp_path / "base", None))
    assert model.tokenizer.chat_template == PLAIN_TEMPLATE
    asked = Prompt((Message("system", "Be brief."), *SHOTS, Message("user", "Why?")))
    assert list(model.ids(asked)) == [
        BOS,
        *ids("Be brief.\n\nQuestion: What is one and one?\nAnswer: Two. The answer is 2."),
        END,
        *ids("\n\nQuestion: Why?\nAnswer:"),
    ]
    written = ids(" Because.\nQuestion: And who?\nAnswer: He.")
    done = model._outcome(Encoded((1,), 100), written)
    assert isinstance(done, Completion)
    assert (done.text, done.finish_reason) == ("Because.", "stop")


def test_no_text_is_a_failure(model: LanguageModel) -> None:
    done = model._outcome(Encoded((1,), 10), [END])
    assert isinstance(done, Failure)
    assert done.kind == "bad_reply"


def test_an_adapter_changes_what_is_said(base: Path, adapter: Path) -> None:
    model = opened(base, adapter)
    asked = [Encoded(model.ids(prompt(text)), 20) for text in ("Which?", "Name a city.")]
    (done, other) = model.completions(asked)
    assert isinstance(done, Completion)
    assert (done.text, done.finish_reason) == ("Paris.", "stop")
    assert isinstance(other, Completion)
    assert other.text == "Paris."
    assert model.context_tokens == CONTEXT


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_that_is_no_adapter_is_refused(
    base: Path, adapter: Path, tmp_path: Path, missing: str
) -> None:
    for file in adapter.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigurationError, match=missing):
        opened(base, tmp_path)


def test_an_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no adapter for"):
        opened(save_base(tmp_path / "wide", hidden_size=64), adapter)
    with pytest.raises(ConfigurationError, match="of 28 weights 14 have a place in it"):
        opened(save_base(tmp_path / "flat", num_hidden_layers=1), adapter)
    with pytest.raises(ConfigurationError, match="14 places are empty"):
        opened(save_base(tmp_path / "deep", num_hidden_layers=3), adapter)


def test_an_adapter_with_a_config_that_is_none_is_refused(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    for file in adapter.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change_adapter(tmp_path, peft_type="NONE")
    with pytest.raises(ConfigurationError, match="is no adapter for"):
        opened(base, tmp_path)


def test_a_folder_without_weights_is_refused(base: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not load as a base model"):
        opened(base.parent)


def test_an_unknown_device_is_refused(base: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        open_language_model(str(base), device="nowhere")


def test_what_is_not_installed_is_named(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    opened(base)
    with pytest.raises(ConfigurationError, match=r"needs peft: scripts/install local"):
        opened(base, adapter)
