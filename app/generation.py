"""Causal language models in this process, on torch and transformers (extra `local`).

What STaR samples with and what the member `local` replies with: a base model with a LoRA adapter
merged into it or without one, many prompts decoded at a time. The tokens that all prompts of a
call begin with, worked examples as a rule, are run once for all of them.

Where prompts outgrow a sliding window (Gemma 3, the first Mistral), or a model is recurrent,
nothing is shared: it decodes many at a time all the same.

A batch ends when its longest reply does; rows that ended before are carried along. There is no
continuous batching: for that there is vLLM.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.domain import Completion, Failure, FinishReason, Prompt, Usage
from app.errors import ConfigurationError
from app.model_folders import CACHE, base_folder, best_device, quiet, require, takes_system

BATCH = 32
# For base models, whose tokenizers bring no chat template.
PLAIN_TEMPLATE = (
    "{% if bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %} {{ message.content }}{{ eos_token }}\n\n"
    "{% elif message.role == 'system' %}{{ message.content }}\n\n"
    "{% else %}Question: {{ message.content }}\nAnswer:{% endif %}"
    "{% endfor %}"
)
# Where a base model that was asked in that form goes on to ask itself.
NEXT_QUESTION = "\nQuestion:"

Outcome = Completion | Failure


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A prompt as tokens. `temperature` 0 is greedy decoding.

    Its row ends at the next token once `given_up` is set.
    """

    ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    sample: int = 0
    given_up: threading.Event = field(default_factory=threading.Event)

    def ends(self, written: int) -> bool:
        """Whether to stop after so many new tokens."""
        return written >= self.max_tokens or self.given_up.is_set()


@dataclass(frozen=True)
class LanguageModel:
    """Weights in memory with their tokenizer. Open it with `open_language_model`.

    Draws depend on `seed`, the prompts of a batch and their sample numbers alone.
    """

    name: str
    network: Any
    tokenizer: Any
    takes_system: bool
    seed: int = 0
    batch: int = BATCH
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def context_tokens(self) -> int:
        """The positions it was made for, prompt and reply together."""
        positions = self.network.config.get_text_config().max_position_embeddings
        return min(int(positions), int(self.tokenizer.model_max_length))

    def ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens of a prompt. A special token spelt out in a text stays text."""
        turns = prompt.turns if self.takes_system else prompt.turns_with_system_folded
        system = [prompt.system] if self.takes_system and prompt.system else []
        chat = [
            *({"role": "system", "content": text} for text in system),
            *({"role": turn.role, "content": turn.content} for turn in turns),
        ]
        with self._lock:  # transformers sets up truncation on the tokenizer shared by all
            ids: list[int] = self.tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_dict=False, sanitize_control_tokens=True
            )
        return tuple(ids)

    def completions(self, asked: Sequence[Encoded]) -> list[Outcome]:
        """A completion or a failure for each, in order."""
        longest = max(len(one.ids) + one.max_tokens for one in asked)
        prefix = _common([one.ids for one in asked]) if self._within_window(longest) else []
        cache = self._run(prefix) if prefix else None
        shared = len(prefix) if cache is not None else 0
        found: dict[int, Outcome] = {}

        def warmth(place: int) -> float:
            return asked[place].temperature

        places = sorted(
            range(len(asked)),
            key=lambda p: (warmth(p), asked[p].max_tokens, len(asked[p].ids), p),
        )
        for _, alike in itertools.groupby(places, key=warmth):
            of_one_warmth = list(alike)
            for start in range(0, len(of_one_warmth), self.batch):
                chosen = of_one_warmth[start : start + self.batch]
                ended = self._decoded([asked[place] for place in chosen], shared, cache)
                found |= dict(zip(chosen, ended, strict=True))
        return [found[place] for place in range(len(asked))]

    def _within_window(self, length: int) -> bool:
        """Whether layers that see only the last so many tokens see all of them. If not, padding
        between what is shared and what is not would push tokens out of their sight."""
        window = getattr(self.network.config.get_text_config(), "sliding_window", None)
        return window is None or length <= window

    def _run(self, prefix: Sequence[int]) -> Any:
        """The keys and values of the tokens that all prompts begin with; None if the model keeps
        something else, such as the state of a recurrent layer, which padding would change."""
        import torch
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        with torch.inference_mode():
            ids = torch.tensor([prefix], device=self.network.device)
            cache = self.network(input_ids=ids, use_cache=True).past_key_values
        plain = (DynamicLayer, DynamicSlidingWindowLayer)
        if isinstance(cache, DynamicCache) and all(type(one) in plain for one in cache.layers):
            return cache
        return None

    def _decoded(self, asked: Sequence[Encoded], shared: int, cache: Any) -> list[Outcome]:
        """One batch, all of one temperature."""
        import torch

        rows = [one.ids for one in asked]
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        # Padding stands between what is shared and what is not, where the mask hides it.
        filled = [[*row[:shared], *[pad] * (longest - len(row)), *row[shared:]] for row in rows]
        mask = [
            [*[1] * shared, *[0] * (longest - len(row)), *[1] * (len(row) - shared)] for row in rows
        ]
        device = self.network.device
        if cache is not None:
            cache = copy.deepcopy(cache)
            cache.batch_repeat_interleave(len(rows))

        def ended(ids: Any, _scores: Any, **_: Any) -> Any:
            written = ids.shape[1] - longest
            return torch.tensor([one.ends(written) for one in asked], device=device)

        temperature = asked[0].temperature
        drawn = {"do_sample": True, "temperature": temperature} if temperature else {}
        torch.manual_seed(self._seed(asked))
        with torch.inference_mode():
            made = self.network.generate(
                input_ids=torch.tensor(filled, device=device),
                attention_mask=torch.tensor(mask, device=device),
                past_key_values=cache,
                max_new_tokens=max(one.max_tokens for one in asked),
                stopping_criteria=[ended],
                pad_token_id=pad,
                **({"do_sample": False} | drawn),
            )
        new = made[:, longest:].tolist()
        return [self._outcome(one, row) for one, row in zip(asked, new, strict=True)]

    def _outcome(self, asked: Encoded, row: Sequence[int]) -> Outcome:
        ends = self.network.generation_config.eos_token_id
        stops = {ends} if isinstance(ends, int) else set(ends or ())
        new = row[: asked.max_tokens]
        length = next((place for place, token in enumerate(new) if token in stops), None)
        text = self.tokenizer.decode(new[:length], skip_special_tokens=True)
        finish: FinishReason = "length" if length is None else "stop"
        if self.tokenizer.chat_template == PLAIN_TEMPLATE and NEXT_QUESTION in text:
            text, finish = text.split(NEXT_QUESTION)[0], "stop"
        if not text.strip():
            return Failure("bad_reply", f"{self.name}: an empty reply")
        written = len(new) if length is None else length + 1
        return Completion(text.strip(), finish, self.name, Usage(len(asked.ids), written))

    def _seed(self, asked: Sequence[Encoded]) -> int:
        said = repr((self.seed, [one.sample for one in asked], [list(one.ids) for one in asked]))
        return int.from_bytes(hashlib.sha256(said.encode()).digest()[:4], "big")


def open_language_model(
    base: str,
    adapter: Path | None = None,
    *,
    name: str | None = None,
    device: str | None = None,
    seed: int = 0,
    batch: int = BATCH,
    cache: Path = CACHE,
) -> LanguageModel:
    """Load a base model (folder, hub id or the name of an embedded model), with a LoRA adapter
    merged into it if one is given.

    `device` None: cuda, mps or cpu, the first there is. `cache` holds embedded models in the form
    that torch reads. Raises `ConfigurationError` that says what to change.
    """
    packages = ("torch", "transformers", "jinja2", *(("peft",) if adapter else ()))
    require("a language model in this process", *packages)
    place = device or best_device()
    network, tokenizer = open_base(base, adapter, device=place, cache=cache)
    if adapter:
        network = _with_adapter(network, base, adapter)
    try:
        network.eval().to(place)
    except (RuntimeError, AssertionError) as error:  # the latter: no CUDA
        raise ConfigurationError(f"{base} does not fit on {place}: {error}") from error
    # Set by some models' authors for chats; here a prompt says what it wants.
    network.generation_config.update(top_p=None, top_k=None, temperature=None, do_sample=False)
    return LanguageModel(name or base, network, tokenizer, takes_system(tokenizer), seed, batch)


def open_base(
    base: str,
    adapter: Path | None = None,
    *,
    four_bit: bool = False,
    device: str | None = None,
    cache: Path = CACHE,
) -> tuple[Any, Any]:
    """A base model in float32 (bfloat16 on a GPU, 4 bits if asked for) and the tokenizer with the
    template that it is trained and sampled with; that of the adapter if it has one.

    Raises `ConfigurationError`.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    folder = base_folder(base, cache)
    place = device or best_device()
    dtype = torch.bfloat16 if place.startswith("cuda") else torch.float32
    quantized = (
        BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
        if four_bit
        else None
    )
    own = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    try:
        with quiet():
            network = AutoModelForCausalLM.from_pretrained(  # nosec B615 # local_files_only
                folder,
                dtype=dtype,
                quantization_config=quantized,
                use_safetensors=True,
                local_files_only=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(  # nosec B615 # local_files_only
                adapter if own else folder, local_files_only=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        with_what = f" with the adapter {adapter}" if adapter else ""
        raise ConfigurationError(
            f"{base} does not load as a base model{with_what}: {error}"
        ) from error
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return network, tokenizer


def _with_adapter(network: Any, base: str, adapter: Path) -> Any:
    """The base with the adapter merged into its weights."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise ConfigurationError(f"{adapter} is no adapter: there is no {name}")
    try:
        with quiet(), warnings.catch_warnings():
            # peft 0.21 of what transformers 5.23 has renamed, and of weights without a place.
            warnings.simplefilter("ignore")
            tuned = PeftModel.from_pretrained(network, adapter)
            placed = set(get_peft_model_state_dict(tuned))
        with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
            there = set(file.keys())
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigurationError(f"{adapter} is no adapter for {base}: {error}") from error
    if placed != there:
        # peft warns and goes on, with the base's own weights.
        raise ConfigurationError(
            f"{adapter} is no adapter for {base}: of {len(there)} weights {len(there & placed)}"
            f" have a place in it, and {len(placed - there)} places are empty"
        )
    return tuned.merge_and_unload()


def _common(rows: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all of several rows begin with; a last token of each is left to itself."""
    if len(rows) < 2:  # noqa: PLR2004 - a row alone shares with nobody
        return []
    least = min(map(len, rows)) - 1
    columns = zip(*(row[:least] for row in rows), strict=True)
    return [column[0] for column in itertools.takewhile(lambda c: len(set(c)) == 1, columns)]
