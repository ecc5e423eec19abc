"""Train an adapter, always from the base: LoRA with TRL's trainers (extra `star`).

The loss is on completions alone, and the chat template is the one that the sampler uses. With
preference rows, DPO (arXiv 2305.18290) follows. `accelerate launch` runs the same over several
GPUs (docs/star.md); where CUDA and bitsandbytes are there, the base can be loaded in 4 bits.

A training that was interrupted goes on at its last checkpoint.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import ConfigurationError, DataError
from app.model_folders import last_checkpoint, quiet, require
from app.star.dataset import Row, TrainingRows
from app.star.sampling import open_base

Tell = Callable[[int, int], None]

_GATED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# The linear layers of attention and feed-forward by `model_type`, as transformers names them.
# Experts of mixtures and state-space layers are left alone.
TARGETS: Mapping[str, tuple[str, ...]] = {
    "falcon": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    "gemma": _GATED,
    "gemma2": _GATED,
    "gemma3_text": _GATED,
    "granite": _GATED,
    "llama": _GATED,
    "mistral": _GATED,
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "qwen2": _GATED,
    "qwen3": _GATED,
    "smollm3": _GATED,
}
CHECKPOINTS = 5


@dataclass(frozen=True, slots=True)
class Training:
    """How an adapter is trained.

    `batch` rows make a step, `micro_batch` of them at a time are in memory; `max_tokens` bounds a
    question with its rationale. `four_bit` loads the base quantized (QLoRA, arXiv 2305.14314).
    `dpo` adds preference rows after the supervised ones. Where `epochs` over few rows would be
    fewer supervised steps than `min_steps`, there are more epochs: the first iteration often
    keeps so few rows that it would learn nothing (the paper begins with 40 steps, of any rows).
    """

    epochs: int = 3
    min_steps: int = 20
    learning_rate: float = 2e-4
    batch: int = 16
    micro_batch: int = 8
    max_tokens: int = 1024
    rank: int = 16
    four_bit: bool = False
    dpo: bool = False
    dpo_learning_rate: float = 5e-6
    seed: int = 0


def train(
    base: str,
    rows: TrainingRows,
    training: Training,
    out: Path,
    tell: Tell,
) -> dict[str, float]:
    """Fit an adapter and put it into the folder `out`, with the tokenizer and its template.

    Returns the loss of the last step of each part, which also stands in its `losses.json`, with
    the number of rows left out as `too_long`, if there were any. `tell` gets steps done and steps
    in all.
    Raises `DataError` without rows and `ConfigurationError` if the base does not load.
    """
    require("training", "torch", "transformers", "trl", "peft", "datasets", extra="star")
    import transformers

    if not rows.supervised:
        raise DataError("there is nothing to train on: no rationale was kept")
    checkpoints = out.with_name(f"{out.name}.checkpoints")
    with quiet(), _without_bars_of_datasets(), warnings.catch_warnings():
        # What the trainers (transformers 5.23, trl 1.16) say of each other's deprecations.
        warnings.simplefilter("ignore", FutureWarning)
        transformers.set_seed(training.seed)
        model, tokenizer = _base(base, training)
        losses: dict[str, float] = {}
        supervised = _that_fit(rows.supervised, tokenizer, training.max_tokens)
        if not supervised:
            raise DataError(
                f"no row fits into {training.max_tokens} tokens: raise --max-row-tokens"
            )
        if too_long := len(rows.supervised) - len(supervised):
            losses["too_long"] = too_long
        trainer = _sft(model, tokenizer, supervised, training, checkpoints / "sft")
        losses["sft"] = _fitted(trainer, tell)
        preferences = _that_fit(rows.preferences, tokenizer, training.max_tokens)
        if training.dpo and preferences:
            tuned = trainer.model
            trainer = _dpo(tuned, tokenizer, preferences, training, checkpoints / "dpo")
            losses["dpo"] = _fitted(trainer, tell)
        _save(trainer, tokenizer, losses, out)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return losses


def _that_fit(rows: Sequence[Row], tokenizer: Any, most: int) -> list[Row]:
    """The rows of at most so many tokens. TRL would cut the others off, and a model that never saw
    an end does not learn to come to one."""

    def tokens(row: Row) -> int:
        endings = [said for part, said in row.items() if part != "prompt"]
        return max(
            len(tokenizer.apply_chat_template(row["prompt"] + said, return_dict=False))
            for said in endings
        )

    return [row for row in rows if tokens(row) <= most]


def _save(trainer: Any, tokenizer: Any, losses: Mapping[str, float], out: Path) -> None:
    """Put the adapter at `out`, whole or not at all. Every process must call it: those that hold
    a part of the weights have to give it."""
    partial = out.with_name(f"{out.name}.partial")
    if trainer.is_world_process_zero():
        shutil.rmtree(partial, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(partial))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        (partial / "training_args.bin").unlink(missing_ok=True)
        # What DPO compared with is the adapter before it, and no part of the result.
        shutil.rmtree(partial / "ref", ignore_errors=True)
        tokenizer.save_pretrained(partial)
        (partial / "losses.json").write_text(json.dumps(losses), encoding="utf-8")
        partial.rename(out)


def targets(model_type: str) -> tuple[str, ...] | str:
    """The modules that get LoRA matrices; all linear ones of a family that is not listed."""
    return TARGETS.get(model_type, "all-linear")


@contextmanager
def _without_bars_of_datasets() -> Iterator[None]:
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _base(base: str, training: Training) -> tuple[Any, Any]:
    if training.four_bit:
        import torch

        if not torch.cuda.is_available():
            raise ConfigurationError("4 bits need an NVIDIA GPU: train without --four-bit")
        require("4 bits", "bitsandbytes", extra="star")
    return open_base(base, four_bit=training.four_bit)


def _lora(model: Any, training: Training) -> Any:
    from peft import LoraConfig, TaskType

    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=training.rank,
        lora_alpha=2 * training.rank,
        target_modules=targets(model.config.model_type),
    )


def _sft(model: Any, tokenizer: Any, rows: Sequence[Row], training: Training, folder: Path) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    flash = _has_flash_attention()
    return SFTTrainer(
        model,
        args=SFTConfig(
            **_arguments(
                training,
                folder,
                training.learning_rate,
                rows=len(rows),
                epochs=_passes(training, len(rows)),
            ),
            max_length=training.max_tokens,
            completion_only_loss=True,
            # Without flash attention packed rows would see each other.
            packing=flash,
        ),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
        peft_config=_lora(model, training),
    )


def _passes(training: Training, rows: int) -> int:
    """As many as were asked for, or as `min_steps` take. Whole ones: a training that ended within
    an epoch makes one step too many when it is begun again at its last checkpoint."""
    steps_of_one = -(-rows // training.batch)
    return max(training.epochs, -(-training.min_steps // steps_of_one))


def _dpo(model: Any, tokenizer: Any, rows: Sequence[Row], training: Training, folder: Path) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(
        model,
        args=DPOConfig(
            **_arguments(
                training,
                folder,
                training.dpo_learning_rate,
                rows=len(rows),
                epochs=training.epochs,
            ),
            max_length=training.max_tokens,
        ),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
    )


def _arguments(
    training: Training, folder: Path, learning_rate: float, *, rows: int, epochs: int
) -> dict[str, Any]:
    import torch
    from accelerate import PartialState

    micro_batch = min(training.micro_batch, training.batch)
    at_once = micro_batch * PartialState().num_processes
    if training.batch % at_once:
        raise ConfigurationError(
            f"a batch of {training.batch} cannot be made of {at_once} rows at a time (the micro"
            " batch on each device): choose a multiple of it"
        )
    cuda = torch.cuda.is_available()
    steps = epochs * -(-rows // training.batch)
    return {
        "output_dir": str(folder),
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(0.05 * steps),
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": training.batch // at_once,
        "gradient_checkpointing": cuda,
        "bf16": cuda,
        "use_cpu": not cuda,
        "save_steps": -(-steps // CHECKPOINTS),
        "save_total_limit": 1,
        "seed": training.seed,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": cuda,
    }


def _fitted(trainer: Any, tell: Tell) -> float:
    from transformers import PrinterCallback, TrainerCallback

    class Told(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            tell(state.global_step, state.max_steps)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Told())
    trainer.train(resume_from_checkpoint=last_checkpoint(Path(trainer.args.output_dir)))
    return float(next(log["loss"] for log in reversed(trainer.state.log_history) if "loss" in log))


def _has_flash_attention() -> bool:
    from transformers.utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())
