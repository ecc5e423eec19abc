"""vLLM with a LoRA-enabled base, on a real tiny model: what `/v1/load_lora_adapter` takes, answers
and refuses. Shapes: https://docs.vllm.ai/en/latest/features/lora/ and messages quoted in issue
threads; the route exists only where VLLM_ALLOW_RUNTIME_LORA_UPDATING is set.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.domain import Completion, Message, Prompt

from .openai_compatible import OpenAICompatibleFake, assistant, completion
from .server import Route
from .wire import Recorded, Reply

if TYPE_CHECKING:
    from app.star.sampling import LocalSampler


@dataclass(frozen=True)
class Loaded:
    path: Path
    sampler: LocalSampler


class VLLMFake(OpenAICompatibleFake):
    """Serves the base in a folder under the name `base`, and the adapters it was told to load."""

    def __init__(self, base: Path, *, updating: bool = True) -> None:
        from app.star.sampling import open_local_sampler

        super().__init__()
        self.base = base
        self.updating = updating
        self.loaded = {"base": Loaded(base, open_local_sampler(str(base)))}

    def default_models(self) -> tuple[str, ...]:
        return ("base",)

    def routes(self) -> tuple[Route, ...]:
        loading = Route("POST", "/v1/load_lora_adapter", self._load)
        return (*super().routes(), loading) if self.updating else super().routes()

    def generate(self, request: Recorded) -> Reply:
        sent = request.sent
        messages = tuple(Message(turn["role"], turn["content"]) for turn in sent["messages"])
        prompt = Prompt(messages, sent["max_tokens"], sent.get("temperature"))
        (outcome,) = self.loaded[sent["model"]].sampler.completions([prompt])
        if isinstance(outcome, Completion):
            return completion(request, assistant(outcome.text), outcome.finish_reason)
        return completion(request, assistant(""))

    def _load(self, request: Recorded) -> Reply:
        from app.star.sampling import open_local_sampler

        name, path = request.sent.get("lora_name"), Path(request.sent.get("lora_path", ""))
        if not name or not path.is_absolute():
            return self.error(request, 400, "Both 'lora_name' and 'lora_path' must be provided.")
        if name in self.loaded:
            return self.error(request, 400, f"The lora adapter '{name}' has already been loaded.")
        if not path.is_dir():
            return self.error(request, 404, f"No adapter found for {path}")
        self.loaded[name] = Loaded(path, open_local_sampler(str(self.base), path))
        self.models = tuple(self.loaded)
        text = f"Success: LoRA adapter '{name}' added successfully."
        return Reply(text, content_type="text/plain")
