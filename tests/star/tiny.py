"""Tiny causal language models with random weights, of the real architectures, as files.

`taught` ones were trained for a moment on what few-shot prompts look like: asked for a sum they say
that it is 7, and 8 if they are shown a hint. That is enough to keep some rationales, to rationalize
others and to fail at the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    FalconConfig,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
)

from app.domain import Message
from app.star.problems import Problem, sums
from app.star.prompts import few_shot, shots_for, with_hint
from tests.scorers.tiny import BOS, END, PAD, TEMPLATE, VOCABULARY, save_tokenizer

FAMILIES: dict[str, Any] = {
    "falcon": FalconConfig,
    "gemma3": Gemma3TextConfig,
    "granite": GraniteConfig,
    "llama": LlamaConfig,
    "mistral": MistralConfig,
}
# What a plain linear layer of attention or feed-forward is called in each.
GATED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
LINEAR = {
    "falcon": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "gemma3": GATED,
    "granite": GATED,
    "llama": GATED,
    "mistral": GATED,
}
CHAT = f"{TEMPLATE}{{% if add_generation_prompt %}}<assistant>{{% endif %}}"
ENDING = "The answer is {}."
# A token each, on top of one for each byte, so that prompts are short.
WORDS = ("What is ", " + ", " = ", ". ", "The answer is ")
STEPS = 40


def save_causal(
    folder: Path, family: str, *, window: int | None = None, scale: float = 0.2
) -> Path:
    """A random model of a family; `window` for those that attend to a sliding one."""
    torch.manual_seed(7)
    made: dict[str, Any] = {
        "vocab_size": len(VOCABULARY) + len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
        "initializer_range": scale,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": END,
        # Tied to its embeddings a random model says what it was told last.
        "tie_word_embeddings": False,
    }
    if family == "falcon":
        made |= {"new_decoder_architecture": False, "multi_query": True, "parallel_attn": True}
        made |= {"bias": False, "alibi": False, "ffn_hidden_size": 64}
    else:
        made |= {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
    if family == "gemma3":
        made |= {"layer_types": ["sliding_attention", "full_attention"]}
    if family in ("gemma3", "mistral"):
        made |= {"sliding_window": window or 1024}
    model = AutoModelForCausalLM.from_config(FAMILIES[family](**made))
    # LoRA leaves the head alone, and under one so small nothing below could become certain.
    model.lm_head.weight.data.mul_(5)
    model.save_pretrained(folder)
    save_tokenizer(folder, CHAT)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(WORDS))
    tokenizer.save_pretrained(folder)
    return folder


def save_taught(folder: Path, family: str) -> Path:
    """See the head of this module."""
    save_causal(folder, family, scale=0.1)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for one in sums(8, seed=5):
        rows.append(_row(tokenizer, few_shot(one, shots_for(one)), ENDING.format(7)))
        rows.append(_row(tokenizer, with_hint(one, shots_for(one)), ENDING.format(8)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(STEPS):
        batch = rows[step * 8 % len(rows) :][:8]
        ids = _padded([asked for asked, _ in batch], PAD)
        labels = _padded([said for _, said in batch], -100)
        loss = model(input_ids=ids, attention_mask=ids != PAD, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def seven_or_eight() -> list[Problem]:
    """All sums of three digits that make 7 or 8, in every order."""
    return [one for one in sums(1000) if one.reference in ("7", "8")]


def _row(tokenizer: Any, messages: Sequence[Message], said: str) -> tuple[list[int], list[int]]:
    turns = [{"role": m.role, "content": m.content} for m in messages]
    asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    new = [*tokenizer.encode(said, add_special_tokens=False), END]
    return [*asked, *new], [*[-100] * len(asked), *new]


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Any:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
