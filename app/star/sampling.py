"""Samplers: they write what is asked for, in this process or elsewhere.

A sampler takes shards of prompts and gives each back when it is done, with a completion or a
failure for each prompt, in order. Whether the prompts go to a model in this process (here), to a
host (`hosts.py`) or to several machines (`clusters.py`) makes no difference to who asks.

The in-process sampler runs the tokens that all prompts of a shard begin with, the worked examples
as a rule, once for all of them, sorts by length, and decodes many prompts at a time. Its draws
depend on the seed and on the shard alone, so a shard gives the same texts wherever it is sampled.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from app.checkpoints import base_checkpoint, quiet, require
from app.domain import Completion, Failure, FinishReason, Prompt, Usage
from app.errors import ConfigurationError

BATCH = 32
# For base models, whose tokenizers bring no chat template.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %} {{ message.content }}{{ eos_token }}\n\n"
    "{% else %}Question: {{ message.content }}\nAnswer:{% endif %}"
    "{% endfor %}"
)

Outcome = Completion | Failure


Shards = Mapping[int, Sequence[Prompt]]


class Sampler(Protocol):
    """Writes one completion for each prompt; what fails is a `Failure` in its place.

    `name` is who wrote it. Shards come back in any order.
    """

    @property
    def name(self) -> str: ...

    def sample(self, shards: Shards) -> AsyncIterator[tuple[int, list[Outcome]]]: ...


@dataclass(frozen=True)
class LocalSampler:
    """A causal language model in this process. Open it with `open_local_sampler`.

    `temperature` None or 0 in a prompt is greedy decoding.
    """

    name: str
    model: Any
    tokenizer: Any
    seed: int = 0
    batch: int = BATCH

    async def sample(self, shards: Shards) -> AsyncIterator[tuple[int, list[Outcome]]]:
        for number, prompts in shards.items():
            yield number, await asyncio.to_thread(self.completions, prompts)

    def completions(self, prompts: Sequence[Prompt]) -> list[Outcome]:
        """One shard."""
        encoded = [self._encoded(prompt) for prompt in prompts]
        prefix = _common(encoded)
        cache = self._run(prefix) if prefix else None
        found: dict[int, Outcome] = {}

        def way(place: int) -> tuple[float, int]:
            return prompts[place].temperature or 0.0, prompts[place].max_tokens

        places = sorted(range(len(prompts)), key=lambda p: (way(p), len(encoded[p]), p))
        for _, alike in itertools.groupby(places, key=way):
            of_one_way = list(alike)
            for start in range(0, len(of_one_way), self.batch):
                chosen = of_one_way[start : start + self.batch]
                asked = [prompts[place] for place in chosen]
                ended = self._decoded(asked, [encoded[p] for p in chosen], len(prefix), cache)
                found |= dict(zip(chosen, ended, strict=True))
        return [found[place] for place in range(len(prompts))]

    def _encoded(self, prompt: Prompt) -> list[int]:
        turns = [{"role": m.role, "content": m.content} for m in prompt.messages]
        ids: list[int] = self.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False
        )
        return ids

    def _run(self, prefix: Sequence[int]) -> Any:
        """The keys and values of the tokens that all prompts begin with."""
        import torch

        with torch.inference_mode():
            ids = torch.tensor([prefix], device=self.model.device)
            return self.model(input_ids=ids, use_cache=True).past_key_values

    def _decoded(
        self, prompts: Sequence[Prompt], rows: Sequence[Sequence[int]], shared: int, cache: Any
    ) -> list[Outcome]:
        """One batch, all of one temperature and length."""
        import torch

        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        # Padding stands between what is shared and what is not, where the mask hides it.
        filled = [[*row[:shared], *[pad] * (longest - len(row)), *row[shared:]] for row in rows]
        mask = [
            [*[1] * shared, *[0] * (longest - len(row)), *[1] * (len(row) - shared)] for row in rows
        ]
        device = self.model.device
        if cache is not None:
            cache = copy.deepcopy(cache)
            cache.batch_repeat_interleave(len(rows))
        temperature = prompts[0].temperature
        drawn = {"do_sample": True, "temperature": temperature} if temperature else {}
        torch.manual_seed(self._seed([prompt.sample for prompt in prompts], rows))
        with torch.inference_mode():
            ended = self.model.generate(
                input_ids=torch.tensor(filled, device=device),
                attention_mask=torch.tensor(mask, device=device),
                past_key_values=cache,
                max_new_tokens=prompts[0].max_tokens,
                pad_token_id=pad,
                **({"do_sample": False} | drawn),
            )
        return [
            self._outcome(row, new)
            for row, new in zip(rows, ended[:, longest:].tolist(), strict=True)
        ]

    def _outcome(self, asked: Sequence[int], new: list[int]) -> Outcome:
        ends = self.model.generation_config.eos_token_id
        stops = {ends} if isinstance(ends, int) else set(ends or ())
        length = next((place for place, token in enumerate(new) if token in stops), None)
        text = self.tokenizer.decode(new[:length], skip_special_tokens=True).strip()
        if not text:
            return Failure("bad_reply", f"{self.name}: an empty reply")
        written = len(new) if length is None else length + 1
        finish: FinishReason = "length" if length is None else "stop"
        return Completion(text, finish, self.name, Usage(len(asked), written))

    def _seed(self, samples: Sequence[int], rows: Sequence[Sequence[int]]) -> int:
        said = repr((self.seed, list(samples), [list(row) for row in rows]))
        return int.from_bytes(hashlib.sha256(said.encode()).digest()[:4], "big")


def open_local_sampler(
    base: str, adapter: Path | None = None, *, seed: int = 0, batch: int = BATCH
) -> LocalSampler:
    """Load a base model (folder, hub id or the name of an embedded model), with a LoRA adapter
    merged into it if one is given.

    Raises `ConfigurationError` that says what to change.
    """
    needed = ("torch", "transformers", *(["peft"] if adapter else []))
    require("sampling", *needed, extra="star")
    import torch

    model, tokenizer = open_base(base, adapter)
    if adapter:
        from peft import PeftModel

        try:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigurationError(f"{adapter} is no adapter for {base}: {error}") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.eval().to(device)
    # Set by some models' authors for chats; here a prompt says what it wants.
    model.generation_config.update(top_p=None, top_k=None, temperature=None, do_sample=False)
    return LocalSampler(sampler_name(base, adapter), model, tokenizer, seed, batch)


def sampler_name(base: str, adapter: Path | None) -> str:
    """Who wrote it: the base, and the stage whose adapter it has."""
    return f"{base} + {adapter.parent.name}" if adapter else base


def open_base(base: str, adapter: Path | None = None, *, four_bit: bool = False) -> tuple[Any, Any]:
    """A base model in float32 (bfloat16 on a GPU, 4 bits if asked for) and the tokenizer with the
    template that it is trained and sampled with; that of the adapter if there is one.

    Raises `ConfigurationError`.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    folder = base_checkpoint(base)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    quantized = (
        BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
        if four_bit
        else None
    )
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                quantization_config=quantized,
                use_safetensors=True,
                local_files_only=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(adapter or folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"{base} does not load as a base model: {error}") from error
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _common(rows: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all of several rows begin with; a last token of each is left to itself."""
    if len(rows) < 2:  # noqa: PLR2004 - a row alone shares with nobody
        return []
    least = min(map(len, rows)) - 1
    columns = zip(*(row[:least] for row in rows), strict=True)
    return [column[0] for column in itertools.takewhile(lambda c: len(set(c)) == 1, columns)]
