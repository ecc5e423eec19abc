"""Train a reward head: `starboard scorer train` (extra `star`).

Labelled replies make a head of five attributes by regression on the labels (SteerLM reward models,
arXiv 2406.08673); pairs make a scalar head by the Bradley-Terry loss (arXiv 2203.02155), with the
rewards kept near zero as in TRL's `center_rewards_coefficient`. The body is a Hugging Face encoder
or decoder, tuned by LoRA or frozen. Texts are read by the `Reader` that serves the head later, so
that template and truncation cannot differ, and the result is an ordinary model for
`app/scorers/local.py`.

A run that was interrupted goes on at its last checkpoint when the same command is given again.
Two runs at once in one folder are not guarded against.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from app.domain import ATTRIBUTES, Completion
from app.errors import ConfigurationError
from app.model_folders import (
    base_folder,
    best_device,
    last_checkpoint,
    quiet,
    require,
    weights_sha256,
)
from app.runs import begin, write_text
from app.scorers.examples import Example, Labels, prompt_key, split, with_spoiled
from app.scorers.local import RESOLUTION_KEY, collated
from app.scorers.reading import Reader, Reading, open_reader

Tune = Literal["lora", "head"]
Precision = Literal["auto", "float32", "bfloat16"]
# Hears of steps done and steps in all.
Tell = Callable[[int, int], None]

# Weight of the square of a prompt's mean reward, so that rewards stay near zero.
CENTRE = 0.01
# Share of the steps in which the learning rate rises.
WARM_UP = 0.05
# Outputs of an attribute head are differences from the middle of the scale.
MIDDLE = 2.0
CHECKPOINTS = 10
# Where transformers' sequence classifiers keep their heads, what leads up to them included.
HEADS = ("score.", "classifier.", "pre_classifier.", "pooler.", "head.")
MANIFEST = "training.json"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a head is trained.

    `base` is a folder, a hub id or the name of an embedded model. `batch` examples make a step,
    `micro_batch` of them at a time are in memory; `max_tokens` bounds a prompt with its reply.
    `spoiled` is the share of examples that get a spoiled reply, `validation` the share of prompts
    kept for measuring. Sets named in `held_out` are not trained on, nor are their prompts.
    Raises `ConfigurationError` if a step cannot be made of micro-batches.
    """

    base: str
    tune: Tune = "lora"
    epochs: float = 1.0
    learning_rate: float = 2e-4
    batch: int = 16
    micro_batch: int = 4
    max_tokens: int = 1024
    rank: int = 16
    spoiled: float = 0.5
    validation: float = 0.1
    held_out: tuple[str, ...] = ()
    precision: Precision = "auto"
    seed: int = 7

    def __post_init__(self) -> None:
        if self.batch > self.micro_batch and self.batch % self.micro_batch:
            raise ConfigurationError(
                f"a batch of {self.batch} is no whole number of micro-batches of"
                f" {self.micro_batch}: change one of them"
            )


@dataclass(frozen=True, slots=True)
class Parts:
    """The examples by what they are for. `leaking` were left out of training because their
    prompt is in a held-out set."""

    training: list[Example]
    validation: list[Example]
    held_out: list[Example]
    leaking: int


def parted(examples: Sequence[Example], recipe: Recipe) -> Parts:
    """Raises `ConfigurationError` if a set is not there or nothing is left to train on."""
    sources = {example.source for example in examples}
    if unknown := [name for name in recipe.held_out if name not in sources]:
        known = ", ".join(sorted(sources))
        raise ConfigurationError(
            f"no set named {', '.join(unknown)} to hold out; there are {known}"
        )
    held_out = [e for e in examples if e.source in recipe.held_out]
    seen = {prompt_key(e.prompt) for e in held_out}
    others = [e for e in examples if e.source not in recipe.held_out]
    kept = [e for e in others if prompt_key(e.prompt) not in seen]
    training, validation = split(kept, recipe.validation)
    if not training:
        raise ConfigurationError("nothing is left to train on: hold out less")
    return Parts(training, validation, held_out, len(others) - len(kept))


def train(parts: Parts, recipe: Recipe, out: Path, tell: Tell) -> Path:
    """Fit the head and return the folder of the finished head, `out/head`.

    `tell` gets steps done and steps in all. Raises `ConfigurationError`: a package is missing,
    the base does not load, there are several GPUs, or `out` holds another run.
    """
    require("training a head", "torch", "transformers", "peft", "accelerate", extra="star")
    import torch
    import transformers

    if torch.cuda.device_count() > 1:
        raise ConfigurationError("a head is trained on one GPU: set CUDA_VISIBLE_DEVICES=0")
    head = out / "head"
    folder = base_folder(recipe.base)
    manifest = _manifest(parts, recipe, folder)
    begin(out, manifest, MANIFEST)
    if head.is_dir():
        return head
    with quiet(), warnings.catch_warnings():
        # Its trainer (5.23) asks models for a property that it calls deprecated itself.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        transformers.set_seed(recipe.seed)
        network, reader = _open(folder, parts.training, recipe)
        items = _items(with_spoiled(parts.training, recipe.spoiled, recipe.seed), reader)
        pad = _padding(reader, items)
        own_pad = network.config.pad_token_id
        network.config.pad_token_id = pad
        tuned = _with_adapter(network, recipe)
        checkpoints = out / "checkpoints"
        trainer = _trainer(tuned, items, pad, recipe, checkpoints=checkpoints, tell=tell)
        trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
        merged = tuned.merge_and_unload() if recipe.tune == "lora" else tuned
        merged.config.pad_token_id = own_pad
        merged.config.starboard_trained_on = manifest["data_sha256"]
        # Of a base that was a head itself; this one is measured anew.
        vars(merged.config).pop(RESOLUTION_KEY, None)
        # Whoever serves the head reads its limit there.
        reader.tokenizer.model_max_length = reader.max_tokens
        partial = out / "head.partial"
        shutil.rmtree(partial, ignore_errors=True)
        merged.save_pretrained(partial)
        reader.tokenizer.save_pretrained(partial)
    partial.rename(head)
    shutil.rmtree(checkpoints)
    return head


def change_config(folder: Path, **values: object) -> None:
    """Set keys of a model's config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | values
    write_text(path, json.dumps(config, indent=2))


def bfloat16_is_fast(device: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def uses_bfloat16(recipe: Recipe) -> bool:
    if recipe.precision == "auto":
        return bfloat16_is_fast(best_device())
    return recipe.precision == "bfloat16"


def _manifest(parts: Parts, recipe: Recipe, folder: Path) -> dict[str, object]:
    """What makes the head; the hash of the data is of all parts, before replies are spoiled."""
    rows = json.dumps(asdict(parts), ensure_ascii=False)
    return {
        "recipe": asdict(recipe),
        "base_sha256": weights_sha256(folder),
        "device": best_device(),
        "bfloat16": uses_bfloat16(recipe),
        "kind": "pairs" if parts.training[0].labels is None else "labels",
        "training": len(parts.training),
        "validation": len(parts.validation),
        "held_out": len(parts.held_out),
        "leaking": parts.leaking,
        "data_sha256": hashlib.sha256(rows.encode()).hexdigest(),
        "versions": {
            name: metadata.version(name) for name in ("starboard", "torch", "transformers", "peft")
        },
    }


def _open(folder: Path, examples: Sequence[Example], recipe: Recipe) -> tuple[Any, Reader]:
    """The body with a new head (of zeros, for a decoder), and what reads texts for it."""
    import torch
    from transformers import AutoModelForSequenceClassification

    labels = ("reward",) if examples[0].labels is None else ATTRIBUTES
    try:
        network, report = AutoModelForSequenceClassification.from_pretrained(  # nosec B615 # local_files_only
            folder,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # of a head that the base may have had
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"{recipe.base} does not load as a base: {error}") from error
    if wrong := [name for name, *_ in report["mismatched_keys"] if not name.startswith(HEADS[:2])]:
        raise ConfigurationError(f"{recipe.base}: the size of {wrong[0]} is not the model's")
    prefix = f"{network.base_model_prefix}."
    missing = {name.removeprefix(prefix) for name in report["missing_keys"]}
    if lacking := sorted(name for name in missing if not name.startswith(HEADS)):
        # transformers fills them with random numbers.
        raise ConfigurationError(f"{recipe.base} lacks weights: {', '.join(lacking[:3])}")
    decoder = hasattr(network, "score")
    if decoder:
        torch.nn.init.zeros_(network.score.weight)
    if len(labels) > 1:
        network.config.starboard_scale = {"factor": 1.0, "offset": MIDDLE}
    return network, open_reader(
        folder, max_tokens=recipe.max_tokens, pairs=not decoder, trust=False
    )


@dataclass(frozen=True, slots=True)
class Item:
    """An example in tokens: a reading of each reply."""

    readings: list[Reading]
    labels: tuple[Labels, ...] | None

    @property
    def longest(self) -> int:
        return max(len(reading.ids) for reading in self.readings)


def _items(examples: Sequence[Example], reader: Reader) -> list[Item]:
    return [
        Item([reader.read(e.prompt, Completion(r, "stop", "")) for r in e.replies], e.labels)
        for e in examples
    ]


def _micro_batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """The items in batches of about one length. They are made here, and shuffled as they are by
    the trainer, because its own grouping by length draws another order when a run goes on."""
    ordered = sorted(items, key=lambda item: item.longest)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _padding(reader: Reader, items: Sequence[Item]) -> int:
    """A token that no text ends with: transformers pools the last one that is not padding."""
    ends = {reading.ids[-1] for item in items for reading in item.readings}
    special = [reader.tokenizer.pad_token_id, *reader.tokenizer.all_special_ids]
    known: list[int] = [token for token in special if token is not None]
    tokens = itertools.chain(known, itertools.count())
    return next(token for token in tokens if token not in ends)


def _with_adapter(network: Any, recipe: Recipe) -> Any:
    if recipe.tune == "head":
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(
                name.removeprefix(f"{network.base_model_prefix}.").startswith(HEADS)
            )
        return network
    from peft import LoraConfig, TaskType, get_peft_model

    return get_peft_model(
        network,
        LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=recipe.rank,
            lora_alpha=2 * recipe.rank,
            target_modules="all-linear",
        ),
    )


def _trainer(
    network: Any, items: Sequence[Item], pad: int, recipe: Recipe, *, checkpoints: Path, tell: Tell
) -> Any:
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    decoder = hasattr(network.base_model, "score") or hasattr(network, "score")

    def collate(batches: Sequence[list[Item]]) -> dict[str, Any]:
        rows = [item for batch in batches for item in batch]
        inputs = collated([reading for row in rows for reading in row.readings], pad)
        if decoder:  # causal, and padded on the right: faster without a mask
            del inputs["attention_mask"]
        return inputs | {"rows": rows}

    class Told(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            tell(state.global_step, state.max_steps)

    class HeadTrainer(Trainer):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
        ) -> Any:
            rows = inputs.pop("rows")
            outputs = model(**inputs).logits.float()
            loss = regression(outputs, rows) if rows[0].labels else bradley_terry(outputs, rows)
            return (loss, outputs) if return_outputs else loss

    steps = max(1, round(recipe.epochs * len(items) / recipe.batch))
    micro_batch = min(recipe.micro_batch, recipe.batch)
    arguments = TrainingArguments(
        str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=1,  # of those that are made here
        gradient_accumulation_steps=recipe.batch // micro_batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(WARM_UP * steps),
        bf16=uses_bfloat16(recipe),
        use_cpu=best_device() == "cpu",
        remove_unused_columns=False,
        save_steps=math.ceil(steps / CHECKPOINTS),
        save_total_limit=1,
        seed=recipe.seed,
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=best_device() == "cuda",
    )
    trainer = HeadTrainer(
        network,
        arguments,
        train_dataset=_micro_batches(items, micro_batch),
        data_collator=collate,
        callbacks=[Told()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def regression(outputs: Any, rows: Sequence[Item]) -> Any:
    """Mean squared error of outputs (replies, 5) against the labels that there are."""
    import torch

    wanted = torch.tensor(
        [
            [float("nan") if x is None else x for x in reply]
            for row in rows
            for reply in row.labels or ()
        ],
        device=outputs.device,
    )
    known = ~wanted.isnan()
    return (outputs + MIDDLE - wanted)[known].square().mean()


def bradley_terry(outputs: Any, rows: Sequence[Item]) -> Any:
    """Negative log-likelihood that each better reply of a row beats each worse one, given outputs
    (replies, 1) in the order of the rows."""
    import torch

    rewards = iter(outputs[:, 0].split([len(row.readings) for row in rows]))
    losses = []
    for row in rewards:
        margins = torch.stack([a - b for a, b in itertools.combinations(row, 2)])
        losses.append(-torch.nn.functional.logsigmoid(margins).mean())
        losses[-1] = losses[-1] + CENTRE * row.mean().square()
    return torch.stack(losses).mean()
