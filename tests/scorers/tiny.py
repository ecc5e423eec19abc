"""Tiny reward models with random weights, of the real architectures, as files of a real model.

The tokenizer has one token for each byte, so that tests can count and write tokens by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    Gemma2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

SPECIAL = ("<pad>", "<bos>", "<end>", "<system>", "<user>", "<assistant>")
PAD, BOS, END, SYSTEM, USER, ASSISTANT = range(len(SPECIAL))
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCABULARY = {token: index for index, token in enumerate((*SPECIAL, *ALPHABET))}
TEMPLATE = "<bos>{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}<end>{% endfor %}"
# As Gemma 2's: there is no system role.
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
)
DROPS_SYSTEM = TEMPLATE.replace("in messages", "in messages if turn.role != 'system'")
CONFIGS: dict[str, Any] = {"llama": LlamaConfig, "qwen3": Qwen3Config, "gemma2": Gemma2Config}


def ids(text: str) -> list[int]:
    """The tokens of ASCII text, written down rather than asked of the tokenizer."""
    return [VOCABULARY[{" ": "\u0120", "\n": "\u010a"}.get(c, c)] for c in text]


def chat(*turns: tuple[int, str]) -> list[int]:
    """The tokens of a conversation in `TEMPLATE`'s format."""
    return [BOS, *(i for role, text in turns for i in (role, *ids(text), END))]


def save_tokenizer(folder: Path, template: str | None = TEMPLATE) -> None:
    tokenizer = Tokenizer(models.BPE(vocab=VOCABULARY, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<end>",
        pad_token="<pad>",
        chat_template=template,
    ).save_pretrained(folder)


def save_decoder(
    folder: Path,
    family: str = "llama",
    labels: tuple[str, ...] = ("reward",),
    *,
    template: str | None = TEMPLATE,
    hidden: int = 32,
    layers: int = 2,
    **config: Any,
) -> Path:
    """A sequence classifier of a family with these labels, as `save_pretrained` writes it."""
    torch.manual_seed(7)
    made = CONFIGS[family](
        vocab_size=len(VOCABULARY),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=512,
        initializer_range=0.2,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=END,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        **config,
    )
    AutoModelForSequenceClassification.from_config(made).save_pretrained(folder)
    save_tokenizer(folder, template)
    return folder


def save_encoder(folder: Path, labels: tuple[str, ...]) -> Path:
    """A BERT classifier without a chat template."""
    torch.manual_seed(7)
    made = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.2,
        pad_token_id=PAD,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    AutoModelForSequenceClassification.from_config(made).save_pretrained(folder)
    save_tokenizer(folder, None)
    return folder


def save_armorm(folder: Path) -> Path:
    """ArmoRM's layout: a Llama body, `regression_layer` with nineteen rows, a gating network."""
    save_decoder(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    generator = torch.Generator().manual_seed(11)
    weights["regression_layer.weight"] = torch.randn(19, 32, generator=generator)
    weights["gating.layers.0.weight"] = torch.randn(8, 32, generator=generator)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    change_config(
        folder,
        architectures=["LlamaForRewardModelWithGating"],
        auto_map={"AutoModelForSequenceClassification": "modeling.LlamaForRewardModelWithGating"},
        id2label={str(n): f"LABEL_{n}" for n in range(19)},
        label2id={f"LABEL_{n}": n for n in range(19)},
    )
    # What a model's own code could do; nothing may run it.
    (folder / "modeling.py").write_text("raise SystemExit('remote code was run')\n")
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | changes))
