"""The in-process sampler, against plain `generate` on models of the real architectures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.domain import Completion, Failure, Message, Prompt
from app.errors import ConfigurationError
from app.generation import Encoded
from app.star.rationales import Asking, bare
from app.star.sampling import LocalSampler, Outcome, open_local_sampler
from tests.scorers.tiny import END
from tests.star.conftest import Taught
from tests.star.tiny import FAMILIES, save_causal, seven_or_eight

QUESTIONS = ("What is 1 + 2 + 3?", "Why?", "What is 40 + 2?", "a", "What is 7 + 7 + 7 + 7 + 7?")


def asked(question: str, *, temperature: float = 0.0, sample: int = 0, tokens: int = 24) -> Prompt:
    """A question behind two worked examples of very different length."""
    turns = ("What is 2 + 2 + 9?", "2 + 2 = 4. The answer is 13.", "b?", "No.", question)
    messages = tuple(Message("user" if n % 2 == 0 else "assistant", t) for n, t in enumerate(turns))
    return Prompt(messages, tokens, temperature, sample)


def one_by_one(folder: Path, prompts: Sequence[Prompt]) -> list[str]:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for prompt in prompts:
        turns = [{"role": m.role, "content": m.content} for m in prompt.messages]
        ids = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            ended = model.generate(**ids, max_new_tokens=prompt.max_tokens, do_sample=False)
        new = ended[0, ids["input_ids"].shape[1] :]
        found.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    return found


def texts(outcomes: Sequence[Outcome]) -> list[str]:
    return [one.text if isinstance(one, Completion) else one.message for one in outcomes]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal(tmp_path_factory.mktemp("random") / "llama", "llama")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_batch_says_what_generate_says_one_by_one(tmp_path: Path, family: str) -> None:
    folder = save_causal(tmp_path / family, family)
    prompts = [asked(question) for question in QUESTIONS]
    sampler = open_local_sampler(str(folder), batch=3)
    said = texts(sampler.completions(prompts))
    assert said == one_by_one(folder, prompts)
    assert len(set(said)) == len(said)  # random weights say something else to each


@pytest.mark.parametrize("family", ["gemma3", "mistral"])
@pytest.mark.parametrize("window", [16, 48, 80])
def test_a_sliding_window_changes_nothing(tmp_path: Path, family: str, window: int) -> None:
    """Windows shorter than what is shared, than the prompt, and than prompt and reply."""
    folder = save_causal(tmp_path / family, family, window=window)
    prompts = [asked(question) for question in QUESTIONS]
    said = texts(open_local_sampler(str(folder)).completions(prompts))
    assert said == one_by_one(folder, prompts)


def test_what_is_shared_is_run_once(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = open_local_sampler(str(llama), batch=2)
    seen: list[int] = []
    forward = sampler.language_model.network.forward

    def counted(*arguments: object, **named: torch.Tensor) -> object:
        seen.append(named["input_ids"].numel())
        return forward(*arguments, **named)

    monkeypatch.setattr(sampler.language_model.network, "forward", counted)
    prompts = [asked(question, tokens=1) for question in QUESTIONS]
    sampler.completions(prompts)
    alone = sum(len(sampler.language_model.tokenizer.encode(question)) for question in QUESTIONS)
    assert seen[0] > 30  # the worked examples
    assert sum(seen[1:]) < 2 * alone + 5 * len(QUESTIONS)


def test_a_prompt_alone_and_two_that_are_the_same(llama: Path) -> None:
    sampler = open_local_sampler(str(llama))
    alone = texts(sampler.completions([asked("a")]))
    assert texts(sampler.completions([asked("a"), asked("a")])) == alone * 2


async def test_a_shard_gives_the_same_texts_wherever_it_is_sampled(llama: Path) -> None:
    shards = {
        number: [asked(QUESTIONS[number], temperature=1.0, sample=n) for n in range(4)]
        for number in range(3)
    }

    async def sampled(seed: int, of: Mapping[int, Sequence[Prompt]]) -> dict[int, list[str]]:
        sampler = open_local_sampler(str(llama), seed=seed)
        return {number: texts(found) async for number, found in sampler.sample(of)}

    first = await sampled(1, shards)
    assert await sampled(1, dict(reversed(shards.items()))) == first
    assert await sampled(1, {2: shards[2]}) == {2: first[2]}
    assert await sampled(2, shards) != first
    for said in first.values():
        assert len(set(said)) == 4  # samples of one prompt differ


def test_temperatures_and_lengths_may_be_mixed(llama: Path) -> None:
    sampler = open_local_sampler(str(llama))
    prompts = [asked(question, tokens=9 + n) for n, question in enumerate(QUESTIONS)]
    found = sampler.completions([asked("a", temperature=1.0), *prompts])
    assert texts(found[1:]) == one_by_one(llama, prompts)


def test_how_a_completion_ended_is_told(taught: Taught) -> None:
    sampler = open_local_sampler(str(taught("llama")))
    problem = seven_or_eight()[0]
    whole, cut = (
        sampler.completions(bare(problem, Asking(max_tokens=tokens), shots=True))[0]
        for tokens in (24, 2)
    )
    assert isinstance(whole, Completion)
    assert (whole.text, whole.finish_reason) == ("The answer is 7.", "stop")
    assert whole.usage is not None
    assert whole.usage.output_tokens == 4
    assert isinstance(cut, Completion)
    assert (cut.text, cut.finish_reason) == ("The answer is 7", "length")


def test_an_empty_reply_is_a_failure_in_its_place(llama: Path) -> None:
    sampler = open_local_sampler(str(llama))
    prompts = [asked(question) for question in QUESTIONS]
    before = sampler.completions(prompts)
    with torch.inference_mode():
        firsts = [
            int(
                sampler.language_model.network(torch.tensor([sampler.language_model.ids(p)]))
                .logits[0, -1]
                .argmax()
            )
            for p in prompts
        ]
    sampler.language_model.network.generation_config.eos_token_id = [END, firsts[2]]
    after = sampler.completions(prompts)
    ends = [first == firsts[2] for first in firsts]
    assert [isinstance(one, Failure) for one in after] == ends
    assert not all(ends)
    for one, was, ended in zip(after, before, ends, strict=True):
        if isinstance(one, Completion) and not ended:
            assert isinstance(was, Completion)
            assert was.text.startswith(one.text)


def test_a_base_without_a_chat_template_gets_a_plain_one(tmp_path: Path) -> None:
    folder = save_causal(tmp_path / "m", "llama")
    (folder / "chat_template.jinja").unlink()
    sampler = open_local_sampler(str(folder))
    encoded = sampler.language_model.tokenizer.decode(sampler.language_model.ids(asked("What?")))
    assert encoded.endswith(" No.<end>\n\nQuestion: What?\nAnswer:")
    assert isinstance(sampler, LocalSampler)


def test_what_does_not_load_is_said(tmp_path: Path, llama: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not load as a base"):
        open_local_sampler(str(tmp_path))
    (tmp_path / "adapter").mkdir()
    with pytest.raises(ConfigurationError, match="adapter"):
        open_local_sampler(str(llama), tmp_path / "adapter")


async def test_cancelling_ends_the_shard_that_is_under_way() -> None:
    began, ended = threading.Event(), threading.Event()

    class Slow:
        """A model that writes until it is told that nobody waits."""

        def ids(self, prompt: Prompt) -> tuple[int, ...]:
            return (1,)

        def completions(self, asked: Sequence[Encoded]) -> list[Outcome]:
            began.set()
            if all(one.given_up.wait(20) for one in asked):
                ended.set()
            return []

    async def sampled() -> None:
        async for _ in LocalSampler(Slow()).sample({0: [Prompt((Message("user", "hello"),))] * 3}):  # type: ignore[arg-type]
            pass

    sampling = asyncio.create_task(sampled())
    await asyncio.to_thread(began.wait, 20)
    sampling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sampling
    assert await asyncio.to_thread(ended.wait, 20)
