"""Tiny causal language models and LoRA adapters with known replies, as files of real ones.

The model is overfitted to a handful of chats, so that tests can say what it must reply.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.scorers.tiny import BOS, END, PAD, TEMPLATE, VOCABULARY, save_tokenizer

CHAT = TEMPLATE + "{% if add_generation_prompt %}<assistant>{% endif %}"
CONTEXT = 256


def save_base(folder: Path, template: str | None = CHAT, *, seed: int = 7) -> Path:
    """A Llama with random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=END,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder, template)
    return folder


def teach(base: Path, adapter: Path, chats: Mapping[str, str], *, steps: int = 300) -> Path:
    """A LoRA adapter that answers these questions with these replies."""
    torch.manual_seed(7)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=16, lora_alpha=32, target_modules="all-linear"
    )
    with warnings.catch_warnings():  # peft 0.21 of what transformers 5.23 has renamed
        warnings.simplefilter("ignore", FutureWarning)
        network: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    rows = []
    for question, reply in chats.items():
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        said = [*tokenizer(reply, add_special_tokens=False)["input_ids"], END]
        rows.append((torch.tensor([asked + said]), torch.tensor([[-100] * len(asked) + said])))
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    loss = torch.tensor(0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum(network(input_ids=ids, labels=labels).loss for ids, labels in rows)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * len(rows), "the adapter has not learned what it should reply"
    network.save_pretrained(adapter)
    return adapter


def change_adapter(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
