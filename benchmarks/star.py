"""Throughput of STaR: tokens sampled and tokens trained on, against the plain way of each.

    python benchmarks/star.py                                 # SmolLM2, 64 prompts, 64 rows
    python benchmarks/star.py --prompts 16 --rows 24 --batch 8 --repetitions 2    # a first look

All ways take the same prompts or rows, in the same run, in turn at each repetition. Sampling is
greedy, few-shot, of sums of three digits:

    one by one     transformers' `generate` for each prompt
    plain batches  `generate` for so many prompts at a time, padded, in the order given
    LocalSampler   what `app.star` samples with

A token is counted if it was written before the end of its reply. What the ways wrote is compared:
sums in another order differ in their last digits, so now and then a word.

Training fits the same LoRA matrices to the same rows, in float32, with the same optimizer:

    Trainer        transformers' `Trainer` over rows that were tokenized before the clock started
    SFTTrainer     TRL's, used plainly
    app.star       `app.star.train.train`

Timed is from the end of the first step to the end of the last, so neither loading nor saving.
SFTTrainer's gradient checkpointing, which saves memory for time, is off, as it is with ours on a
CPU. Every token of a row counts, whether its loss does or not.

A quotient is the median over the repetitions, each against the same repetition of the other way; by
CPU time it says the same on a machine that has other work.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from rich.console import Console
from rich.progress import Progress
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.utils import logging

from app.domain import Completion, Prompt
from app.star.dataset import Row, TrainingRows
from app.star.problems import Problem, sums
from app.star.prompts import zero_shot
from app.star.rationales import Asking, bare
from app.star.sampling import BATCH, open_base, open_local_sampler
from app.star.train import Training, targets, train

BASE = "smollm2-135m-instruct"


@dataclass
class Measured:
    """Of each repetition. `texts` are those of the last one."""

    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """The median of tokens a second."""
        return statistics.median(map(float.__truediv__, map(float, self.tokens), self.seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", default=BASE, help="a folder, a hub id or an embedded model")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64, help="the longest reply")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="rows of a training step")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="torch's")
    parser.add_argument("--only", choices=("sampling", "training"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.simplefilter("ignore", FutureWarning)  # of trainers about each other
    print(
        f"{arguments.base}, torch threads: {arguments.threads}, median of"
        f" {arguments.repetitions}\n\n| | way | tokens/s | against | by CPU time |"
        " tokens, wall s of each |\n|---|---|---|---|---|---|"
    )
    problems = sums(max(arguments.prompts, arguments.rows), seed=1)
    asking = Asking(1, 0.0, arguments.max_tokens)
    prompts = [p for one in problems[: arguments.prompts] for p in bare(one, asking, shots=True)]
    sampled: Mapping[str, Measured] = {}
    if arguments.only != "training":
        sampled = measure(sampling_ways(arguments.base, prompts), arguments.repetitions)
        show("sampling", sampled, "one by one")
    if arguments.only != "sampling":
        rows = [row(problem) for problem in problems[: arguments.rows]]
        training = Training(
            epochs=1, min_steps=0, batch=arguments.batch, micro_batch=min(8, arguments.batch)
        )
        with tempfile.TemporaryDirectory() as folder:
            ways = training_ways(arguments.base, rows, training, Path(folder))
            show("training", measure(ways, arguments.repetitions), "SFTTrainer")
    print()
    for name, found in sampled.items():
        texts = sampled["one by one"].texts
        same = sum(map(str.__eq__, texts, found.texts))
        print(f"{name}: {same} of {len(texts)} replies are those of one by one")


def row(problem: Problem) -> Row:
    """A rationale as STaR keeps them, for a sum of three digits."""
    first, second, third = (int(digit) for digit in problem.question if digit.isdigit())
    text = (
        f"{first} + {second} = {first + second}. {first + second} + {third} ="
        f" {first + second + third}. The answer is {problem.reference}."
    )
    turns = [{"role": m.role, "content": m.content} for m in zero_shot(problem)]
    return {"prompt": turns, "completion": [{"role": "assistant", "content": text}]}


def measure(ways: Mapping[str, Callable[[], Timed]], repetitions: int) -> dict[str, Measured]:
    found = {name: Measured() for name in ways}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for _ in progress.track(range(repetitions), description="repetitions"):
            for name, way in ways.items():
                timed = way()
                found[name].tokens.append(timed.tokens)
                found[name].seconds.append(timed.seconds)
                found[name].cpu.append(timed.cpu)
                found[name].texts = timed.texts
    return found


@dataclass(frozen=True)
class Timed:
    """Tokens done, seconds on the wall and of the CPU, and what was written, if anything."""

    tokens: int
    seconds: float
    cpu: float
    texts: list[str] = field(default_factory=list)


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def sampling_ways(base: str, prompts: Sequence[Prompt]) -> dict[str, Callable[[], Timed]]:
    sampler = open_local_sampler(base)
    model, tokenizer = sampler.language_model.network, sampler.language_model.tokenizer
    rendered = [
        tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in prompt.messages],
            add_generation_prompt=True,
            tokenize=False,
        )
        for prompt in prompts
    ]

    def generated(texts: Sequence[str]) -> list[list[int]]:
        asked = tokenizer(
            list(texts),
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        )
        with torch.inference_mode():
            ended = model.generate(
                **asked,
                do_sample=False,
                max_new_tokens=prompts[0].max_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
        replies: list[list[int]] = ended[:, asked["input_ids"].shape[1] :].tolist()
        return replies

    def plain(at_a_time: int) -> Callable[[], Timed]:
        def run() -> Timed:
            wall, cpu = now()
            replies = [
                reply
                for start in range(0, len(rendered), at_a_time)
                for reply in generated(rendered[start : start + at_a_time])
            ]
            wall_s, cpu_s = now()[0] - wall, now()[1] - cpu
            ended = [_ended(reply, model.generation_config.eos_token_id) for reply in replies]
            texts = [tokenizer.decode(one, skip_special_tokens=True).strip() for one in ended]
            return Timed(sum(map(len, ended)), wall_s, cpu_s, texts)

        return run

    def ours() -> Timed:
        wall, cpu = now()
        outcomes = sampler.completions(prompts)
        wall_s, cpu_s = now()[0] - wall, now()[1] - cpu
        replies = [one for one in outcomes if isinstance(one, Completion)]
        assert len(replies) == len(prompts), "a reply is empty"
        tokens = sum(one.usage.output_tokens for one in replies if one.usage)
        return Timed(tokens, wall_s, cpu_s, [one.text for one in replies])

    return {
        "one by one": plain(1),
        f"plain batches of {BATCH}": plain(BATCH),
        "LocalSampler": ours,
    }


def _ended(reply: Sequence[int], end: int | list[int]) -> list[int]:
    """The tokens up to the end of the reply, the end included."""
    ends = {end} if isinstance(end, int) else set(end)
    length = next((place for place, token in enumerate(reply) if token in ends), len(reply))
    return list(reply[: length + 1])


def training_ways(
    base: str, rows: Sequence[Row], training: Training, folder: Path
) -> dict[str, Callable[[], Timed]]:
    _, tokenizer = open_base(base)
    tokenized = [_tokenized(tokenizer, row) for row in rows]
    steps = -(-len(rows) // training.batch)
    if steps < 2:
        raise SystemExit("at least two steps are needed: give more --rows, or a smaller --batch")
    tokens = round(sum(len(one["input_ids"]) for one in tokenized) * (steps - 1) / steps)
    arguments = {
        "num_train_epochs": training.epochs,
        "learning_rate": training.learning_rate,
        "per_device_train_batch_size": training.micro_batch,
        "gradient_accumulation_steps": training.batch // training.micro_batch,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
    }
    runs = iter(range(10**6))

    def timed(fit: Callable[[Callable[[], None]], None]) -> Callable[[], Timed]:
        def run() -> Timed:
            ends: list[tuple[float, float]] = []
            set_seed(0)
            fit(lambda: ends.append(now()))
            assert len(ends) == steps
            (wall, cpu), (last_wall, last_cpu) = ends[0], ends[-1]
            return Timed(tokens, last_wall - wall, last_cpu - cpu)

        return run

    def plain_trainer(step: Callable[[], None]) -> None:
        from peft import get_peft_model

        model, _ = open_base(base)
        trainer = Trainer(
            get_peft_model(model, _lora(model, training)),
            TrainingArguments(output_dir=str(folder / "plain"), **arguments),
            data_collator=lambda some: _padded(some, tokenizer.pad_token_id),
            train_dataset=tokenized,
            callbacks=[_Steps(step)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()

    def sft_trainer(step: Callable[[], None]) -> None:
        from trl import SFTConfig, SFTTrainer

        model, _ = open_base(base)
        trainer = SFTTrainer(
            model,
            args=SFTConfig(output_dir=str(folder / "sft"), **arguments),
            train_dataset=datasets.Dataset.from_list(list(rows)),
            processing_class=tokenizer,
            peft_config=_lora(model, training),
            callbacks=[_Steps(step)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()

    def ours(step: Callable[[], None]) -> None:
        out = folder / f"ours-{next(runs)}"
        train(base, TrainingRows(list(rows)), training, out, lambda *_: step())

    return {
        "Trainer": timed(plain_trainer),
        "SFTTrainer": timed(sft_trainer),
        "app.star": timed(ours),
    }


class _Steps(TrainerCallback):  # type: ignore[misc]
    def __init__(self, step: Callable[[], None]) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step()


def _lora(model: Any, training: Training) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=training.rank,
        lora_alpha=2 * training.rank,
        target_modules=targets(model.config.model_type),
    )


def _tokenized(tokenizer: Any, row: Row) -> dict[str, list[int]]:
    """The row as tokens, with labels for the completion alone."""
    asked = tokenizer.apply_chat_template(
        row["prompt"], add_generation_prompt=True, return_dict=False
    )
    both = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=False)
    return {"input_ids": both, "labels": [-100] * len(asked) + both[len(asked) :]}


def _padded(rows: Sequence[Mapping[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)

    def filled(values: Sequence[int], filler: int) -> list[int]:
        return [*values, *[filler] * (longest - len(values))]

    return {
        "input_ids": torch.tensor([filled(row["input_ids"], pad) for row in rows]),
        "labels": torch.tensor([filled(row["labels"], -100) for row in rows]),
        "attention_mask": torch.tensor([filled([1] * len(row["input_ids"]), 0) for row in rows]),
    }


def show(what: str, found: Mapping[str, Measured], against: str) -> None:
    """Each way with the median of its quotients within a repetition."""
    base = found[against]
    for name, one in found.items():
        wall = _quotient(one.tokens, one.seconds, base.tokens, base.seconds)
        cpu = _quotient(one.tokens, one.cpu, base.tokens, base.cpu)
        every = ", ".join(
            f"{tokens} in {seconds:.1f}"
            for tokens, seconds in zip(one.tokens, one.seconds, strict=True)
        )
        print(
            f"| {what} | {name} | {one.speed:.1f} | {wall:.2f} x {against} | {cpu:.2f} x |"
            f" {every} |",
            flush=True,
        )


def _quotient(
    tokens: Sequence[int],
    seconds: Sequence[float],
    base_tokens: Sequence[int],
    base_seconds: Sequence[float],
) -> float:
    """The median, over repetitions, of how many times as fast as the base."""
    pairs = zip(tokens, seconds, base_tokens, base_seconds, strict=True)
    return statistics.median((t / s) / (base_t / base_s) for t, s, base_t, base_s in pairs)


if __name__ == "__main__":
    main()
