"""Open reward models in this process, on torch and transformers (extra `local`).

    huggingface.co                          head
    Skywork/Skywork-Reward-V2-*             one reward
    RLHFlow/ArmoRM-Llama3-8B-v0.1           nineteen outputs, the first five x 5 - 0.5
    RLHFlow/Decision-Tree-Reward-*          five attributes (its regression; the tree is not read)
    trained by this project, or by you      five attributes by `id2label`

The kind is read off `config.json` (`app/scorers/heads.py`). Weights are read from safetensors
alone, and no code that comes with a model is run unless the operator names that model. For
decoders the head is applied here, to the hidden state of the last real token: that needs no class
of the model's own, and does not depend on a padding token that may also be a real one.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.batching import MicroBatcher
from app.domain import Completion, Prompt, Score, ScorerInfo
from app.errors import ConfigurationError, UpstreamError, boundary
from app.model_folders import WEIGHTS_FILES, best_device, fetch, quiet, require
from app.scorers.heads import ARMORM, Head, head_of
from app.scorers.reading import Reader, Reading, open_reader

NAME = "local"
RESOLUTION = 0.1
RESOLUTION_KEY = "starboard_resolution"
BATCH_TOKENS = 8192
QUEUE_LIMIT = 256
# Least share of real tokens in a batch. Padding costs a CPU as much as text does; an accelerator
# would rather start fewer kernels (not measured: there was none here).
FULLNESS = {"cpu": 0.8}
FULLNESS_ELSEWHERE = 0.5
ARMORM_TOKENS = 4096  # its card; config.json says more
# Where a linear head on the last token lies in a model's files: transformers' name, and ArmoRM's.
HEAD_NAMES = ("score", "regression_layer")

Outputs = tuple[float, ...]


@dataclass(frozen=True)
class LocalScorer:
    """A reward model in this process. Open it with `open_local_scorer`."""

    model: str
    resolution: float
    head: Head
    reader: Reader
    batcher: MicroBatcher[Reading, Outputs]

    @property
    def info(self) -> ScorerInfo:
        return ScorerInfo(NAME, self.model, self.head.scale, self.resolution)

    async def score(self, prompt: Prompt, completion: Completion) -> Score:
        started = time.perf_counter()
        with boundary(NAME):
            reading = await asyncio.to_thread(self.reader.read, prompt, completion)
            outputs = await self.batcher.submit(reading, len(reading.ids))
        outcome = self.head.outcome(NAME, outputs)
        return Score(outcome, reading.note, time.perf_counter() - started)

    async def ping(self) -> None:
        """Nothing to reach: the weights are in memory."""


@asynccontextmanager
async def open_local_scorer(
    model: str,
    *,
    resolution: float | None = None,
    device: str | None = None,
    dtype: str | None = None,
    max_tokens: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    queue_limit: int = QUEUE_LIMIT,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> AsyncIterator[LocalScorer]:
    """Load a reward model and close it at the end.

    `model` is a folder or a hub id; the latter is downloaded on first use. `device` None: cuda,
    mps or cpu, the first there is; `dtype` None: bfloat16, or float32 on a CPU. `resolution` None:
    the one that was measured when the head was trained here, or 0.1. Raises `ConfigurationError`
    that says what to change.
    """

    def load() -> tuple[float, Head, Reader, Runner]:
        require(f"the scorer {NAME}", "torch", "transformers")
        code = ["*.py"] if trust_remote_code else []
        folder = fetch(model, revision, [*WEIGHTS_FILES, *code])
        head, measured = _head(folder)
        place = device or best_device()
        network = _network(folder, head, place, dtype, trust_remote_code)
        reader = open_reader(
            folder,
            max_tokens=max_tokens or (ARMORM_TOKENS if head is ARMORM else None),
            pairs=not isinstance(network, LastTokenHead),
            trust=trust_remote_code,
        )
        return measured, head, reader, Runner(network, place, reader.tokenizer.pad_token_id or 0)

    measured, head, reader, run = await asyncio.to_thread(load)
    batcher = MicroBatcher(
        NAME,
        run,
        batch_tokens=batch_tokens,
        fullness=FULLNESS.get(run.device, FULLNESS_ELSEWHERE),
        queue_limit=queue_limit,
    )
    try:
        yield LocalScorer(
            model, measured if resolution is None else resolution, head, reader, batcher
        )
    finally:
        await batcher.close()


def _head(folder: Path) -> tuple[Head, float]:
    """The head, and the resolution that stands in the model's config."""
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigurationError(f"{folder} is not a model: there is no config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        head = head_of(config)
        resolution = float(config.get(RESOLUTION_KEY, RESOLUTION))
        if not 0 <= resolution < math.inf:
            raise ValueError(f"{RESOLUTION_KEY} in config.json must be a number from 0 on")
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{folder}: {error}") from error
    if head is None:
        raise ConfigurationError(
            f"{folder} is no reward model of a known kind: id2label in config.json must name"
            " the five attributes or one output"
        )
    return head, resolution


@dataclass(frozen=True)
class LastTokenHead:
    """A decoder's body with a linear head on the hidden state of the last real token.

    Rows are padded on the right, where a causal body does not look: without a padding mask the
    attention kernels that need none are used, which is most of what batching gains. The head is
    applied in float32: its rounding is the reward's.
    """

    body: Any
    weight: Any
    bias: Any

    def __call__(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
        import torch

        hidden = self.body(input_ids=input_ids, use_cache=False).last_hidden_state
        rows = torch.arange(len(hidden), device=hidden.device)
        last = hidden[rows, attention_mask.sum(dim=1) - 1]
        return torch.nn.functional.linear(last.float(), self.weight, self.bias)


@dataclass(frozen=True)
class Classifier:
    """A model with a head of its own, such as an encoder's."""

    model: Any

    def __call__(self, **inputs: Any) -> Any:
        return self.model(**inputs).logits.float()


@dataclass(frozen=True)
class Runner:
    """Maps readings to raw outputs, one row each. Runs in the batcher's thread."""

    network: LastTokenHead | Classifier
    device: str
    pad_id: int

    def __call__(self, batch: Sequence[Reading]) -> list[Outputs]:
        import torch

        inputs = {
            name: tensor.to(self.device) for name, tensor in collated(batch, self.pad_id).items()
        }
        try:
            with torch.inference_mode():
                return [tuple(row) for row in self.network(**inputs).tolist()]
        except torch.OutOfMemoryError as error:
            message = f"{NAME}: out of memory; a lower batch_tokens or max_tokens helps"
            raise UpstreamError("overloaded", message) from error


def collated(batch: Sequence[Reading], pad_id: int) -> dict[str, Any]:
    """Readings as tensors (readings, longest), padded on the right."""
    import torch

    longest = max(len(reading.ids) for reading in batch)

    def padded(rows: list[Sequence[int]], fill: int) -> Any:
        return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])

    inputs = {
        "input_ids": padded([reading.ids for reading in batch], pad_id),
        "attention_mask": padded([[1] * len(reading.ids) for reading in batch], 0),
    }
    if batch[0].segments:
        inputs["token_type_ids"] = padded([reading.segments for reading in batch], 0)
    return inputs


def _network(
    folder: Path, head: Head, device: str, dtype: str | None, trust: bool
) -> LastTokenHead | Classifier:
    """The weights in memory, on their device. Raises `ConfigurationError`."""
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification

    if not any(folder.glob("*.safetensors")):
        raise ConfigurationError(
            f"{folder} has no safetensors weights, and other formats can run code when they are"
            " read: convert them, with save_pretrained on a machine that may"
        )
    linear = None if trust else _linear_head(folder, head)
    loader = AutoModel if linear else AutoModelForSequenceClassification
    try:
        # It reports the head's weights as unexpected in a body, which they are.
        with quiet():
            network, report = loader.from_pretrained(
                folder,
                dtype=getattr(torch, dtype or ("float32" if device == "cpu" else "bfloat16")),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=trust,
                output_loading_info=True,
            )
        network.eval().to(device)
    except (OSError, ValueError, RuntimeError, AssertionError) as error:  # the last: no CUDA
        raise ConfigurationError(f"{folder} does not load: {error}") from error
    if missing := sorted(report["missing_keys"]):
        # transformers fills them with random numbers, which would score.
        raise ConfigurationError(f"{folder} lacks weights: {', '.join(missing[:3])} ...")
    if linear is None:
        return Classifier(network)
    weight, bias = linear
    return LastTokenHead(
        network, weight.float().to(device), None if bias is None else bias.float().to(device)
    )


def _linear_head(folder: Path, head: Head) -> tuple[Any, Any] | None:
    """Weight (outputs, hidden) and bias, or None, of a linear head on the last token; None if the
    model has no such head, as encoders have not."""
    from safetensors import safe_open

    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = {f"{name}.{part}" for name in HEAD_NAMES for part in ("weight", "bias")}
            found |= {name: file.get_tensor(name) for name in names.intersection(file.keys())}
    for name in HEAD_NAMES:
        if (weight := found.get(f"{name}.weight")) is not None and len(weight) == head.outputs:
            return weight, found.get(f"{name}.bias")
    if found:
        raise ConfigurationError(
            f"the head in {folder} has not the {head.outputs} outputs that its config.json names"
        )
    return None
