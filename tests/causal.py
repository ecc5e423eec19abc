"""Tiny causal language models and LoRA adapters with known replies, as files of real ones.

Weights are random; an adapter is overfitted to one reply, so that tests can say what comes.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from app.star.train import TARGETS
from tests.scorers.tiny import BOS, END, PAD, TEMPLATE, VOCABULARY, ids, save_tokenizer

CHAT = TEMPLATE + "{% if add_generation_prompt %}<assistant>{% endif %}"
CONTEXT = 256
STEPS = 60


def save_base(folder: Path, template: str | None = CHAT, **config: Any) -> Path:
    """A Llama with random weights."""
    torch.manual_seed(7)
    made = LlamaConfig(
        **{
            "vocab_size": len(VOCABULARY),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": CONTEXT,
            "initializer_range": 0.2,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": END,
            **config,
        }
    )
    LlamaForCausalLM(made).save_pretrained(folder)
    save_tokenizer(folder, template)
    return folder


def teach(base: Path, adapter: Path, reply: str) -> Path:
    """A LoRA adapter that gives this reply to whatever it is asked.

    The letters of the reply must differ: so small a model learns which follows which, no more.
    """
    torch.manual_seed(7)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=16, lora_alpha=32, target_modules=list(TARGETS["llama"])
    )
    with warnings.catch_warnings():  # peft 0.21 of what transformers 5.23 has renamed
        warnings.simplefilter("ignore", FutureWarning)
        network: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    said = [*ids(reply), END]
    rows = []
    for question in ("Which?", "Why is the sky blue?", "Name a city."):
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        rows.append((torch.tensor([asked + said]), torch.tensor([[-100] * len(asked) + said])))
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    for step in range(STEPS):
        tokens, labels = rows[step % len(rows)]
        optimizer.zero_grad()
        network(input_ids=tokens, labels=labels).loss.backward()
        optimizer.step()
    network.save_pretrained(adapter)
    return adapter


def change_adapter(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
