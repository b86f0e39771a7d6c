"""A judge that is a language model on this machine."""

import hashlib
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.files import digest
from common.qa.judges import Chat, JudgeError, Reply
from common.text.chat import CausalChat

CONTENT = ("*.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "tokenizer_config.json")


class Local:
    """Greedy replies of a causal model with a chat template. Nothing is loaded before the first chat."""

    def __init__(
        self,
        *,
        weights: str,
        dtype: str = "bfloat16",
        device: str = "auto",
        batch: int = 8,
        max_new_tokens: int = 64,
        merge_system: bool = False,
    ) -> None:
        """
        Args:
            weights: folder or Hub id.
            dtype: of the weights.
            device: "auto" takes the first GPU if there is one.
            batch: chats at a time.
            max_new_tokens: longest reply.
            merge_system: puts the system text before the user's, for templates without a system role.
        """
        self.weights, self.dtype, self.device, self.batch = weights, dtype, device, batch
        self.max_new_tokens, self.merge_system = max_new_tokens, merge_system
        self._model: CausalChat | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """A folder is known by its content: other weights under the same name are another judge."""
        folder = Path(self.weights)
        known: dict[str, Any] = {"kind": "local", "model": self.weights, "dtype": self.dtype}
        if folder.is_dir():
            files = sorted(path for pattern in CONTENT for path in folder.glob(pattern))
            content = hashlib.blake2b("".join(digest(path) for path in files).encode(), digest_size=8)
            known |= {"model": folder.resolve().name, "content": content.hexdigest()}
        return known | {"max_new_tokens": self.max_new_tokens, "merge_system": self.merge_system}

    def ask(self, chats: Sequence[Chat]) -> Generator[tuple[int, Reply], None, None]:
        if not chats:
            return
        if self._model is None:
            self._model = self._load()
        name = str(self.identity["model"])
        messages = [[{"role": each["role"], "content": each["content"]} for each in chat.messages] for chat in chats]
        for place, text in self._model.replies(messages, batch=self.batch):
            refusal = f"longer than {self._model.room} tokens, which is what the model has room for"
            yield place, Reply(text, name) if text is not None else Reply(None, name, refusal)

    def _load(self) -> CausalChat:
        try:
            return CausalChat(
                weights=self.weights,
                dtype=self.dtype,
                device=self.device,
                max_new_tokens=self.max_new_tokens,
                merge_system=self.merge_system,
            )
        except (OSError, ValueError) as error:  # OSError: neither a folder nor on the Hub
            raise JudgeError(f"judge.weights={self.weights}: {error}") from error
