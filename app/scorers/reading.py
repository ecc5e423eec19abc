"""From a prompt and a completion to the tokens a reward model was trained on.

A wrong template is a silent error: the model still gives numbers. So the model's own tokenizer and
chat template are used, and nothing stands in for a template that is missing from a decoder.
Needs `transformers` (extra `local`); torch only if there are weights to load.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.domain import Completion, Prompt
from app.errors import ConfigurationError
from app.model_folders import takes_system

# Without a limit of the model's own or the operator's. Skywork-Reward-V2 was trained to this.
MAX_TOKENS = 16_384
# Share of the limit that a reply may take; the rest is the prompt's.
REPLY_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class Reading:
    """One conversation in tokens.

    `segments` are the token types of a sentence pair, empty for chat. `left_out` tokens of
    `total` did not fit.
    """

    ids: tuple[int, ...]
    segments: tuple[int, ...]
    left_out: int
    total: int

    @property
    def note(self) -> str | None:
        if not self.left_out:
            return None
        return f"scored a part: {self.left_out:,} of {self.total:,} tokens did not fit"


@dataclass(frozen=True)
class Reader:
    """A tokenizer with the model's format. May be used from several threads.

    `takes_system` False: system text goes into the first user turn. `pairs` True: there is no
    chat template, and prompt and reply are an encoder's sentence pair.
    """

    tokenizer: Any
    max_tokens: int
    takes_system: bool
    pairs: bool
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def read(self, prompt: Prompt, completion: Completion) -> Reading:
        """The tokens of the prompt's turns with the reply as the last one.

        What exceeds `max_tokens` is left out: first the tail of a reply that would fill over
        three quarters alone, then the prompt from its left, a begin-of-text token aside.
        """
        with self._lock:  # transformers sets up truncation on the tokenizer shared by all
            ids, segments = self._encoded(prompt, completion.text)
            total = len(ids)
            if total > self.max_tokens:
                ids, segments = self._encoded(prompt, self._shortened(completion.text))
        if (over := len(ids) - self.max_tokens) > 0:
            start = int(ids[0] in (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id))
            ids = [*ids[:start], *ids[start + over :]]
            segments = segments and [*segments[:start], *segments[start + over :]]
        return Reading(tuple(ids), tuple(segments), total - len(ids), total)

    def _shortened(self, text: str) -> str:
        """The reply within its share."""
        limit = int(self.max_tokens * REPLY_SHARE)
        encoded = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        ends = [end for _, end in encoded["offset_mapping"]]
        return text if len(ends) <= limit else text[: ends[limit - 1]]

    def _encoded(self, prompt: Prompt, reply: str) -> tuple[list[int], list[int]]:
        # A special token spelt out in a text stays text: only the format writes real ones.
        if self.pairs:
            pair = self.tokenizer(plain(prompt), reply, split_special_tokens=True)
            return pair["input_ids"], pair.get("token_type_ids", [])
        chat = messages(prompt, reply, takes_system=self.takes_system)
        ids = self.tokenizer.apply_chat_template(
            chat, return_dict=False, sanitize_control_tokens=True
        )
        return ids, []


def messages(prompt: Prompt, reply: str, *, takes_system: bool) -> list[dict[str, str]]:
    """The conversation in the OpenAI form, the reply as the last assistant turn."""
    turns = prompt.turns if takes_system else prompt.turns_with_system_folded
    system = [prompt.system] if takes_system and prompt.system else []
    return [
        *({"role": "system", "content": text} for text in system),
        *({"role": turn.role, "content": turn.content} for turn in turns),
        {"role": "assistant", "content": reply},
    ]


def plain(prompt: Prompt) -> str:
    """The prompt as one text, for models that read a sentence pair: turns by blank lines."""
    return "\n\n".join(turn.content for turn in prompt.turns_with_system_folded)


def open_reader(folder: Path, *, max_tokens: int | None, pairs: bool, trust: bool) -> Reader:
    """The reader of a model in a folder. `pairs` allows one without a chat template.

    `max_tokens` None: the model's own limit, as far as its files state it; no more than that
    in any case.
    Raises `ConfigurationError`.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(  # nosec B615 # local_files_only
            folder, local_files_only=True, trust_remote_code=trust
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{folder} has no tokenizer that loads: {error}") from error
    if not tokenizer.is_fast:
        raise ConfigurationError(f"{folder} has no tokenizer.json")
    if not tokenizer.chat_template and not pairs:
        raise ConfigurationError(
            f"the tokenizer in {folder} has no chat template, and a decoder needs its own"
        )
    limit = min(max_tokens or MAX_TOKENS, tokenizer.model_max_length, _positions(folder))
    # Texts are cut here, and transformers need not warn of what it does not read.
    tokenizer.model_max_length = sys.maxsize
    templated = bool(tokenizer.chat_template)
    return Reader(tokenizer, limit, templated and takes_system(tokenizer), not templated)


def _positions(folder: Path) -> int:
    """Positions that the model was made for."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return int(config.get("max_position_embeddings", MAX_TOKENS))
