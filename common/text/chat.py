"""A causal language model that was tuned to chat, and its greedy replies."""

from collections.abc import Generator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from common.weights.pretrained import load_pretrained


class CausalChat:
    """A model with its tokenizer and chat template."""

    def __init__(
        self,
        *,
        weights: str,
        dtype: str = "bfloat16",
        device: str = "auto",
        max_new_tokens: int = 64,
        merge_system: bool = False,
    ) -> None:
        """
        Args:
            weights: folder or Hub id.
            dtype: of the weights.
            device: "auto" takes the first GPU if there is one.
            max_new_tokens: longest reply.
            merge_system: puts the system text before the user's, for templates without a system role.

        Raises:
            ValueError: the tokenizer has no chat template.
        """
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.max_new_tokens, self.merge_system = max_new_tokens, merge_system
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(weights)
        if self.tokenizer.chat_template is None:
            raise ValueError(f"{weights} has no chat template; choose a model that was tuned to chat")
        model: PreTrainedModel = load_pretrained(AutoModelForCausalLM, weights, dtype=getattr(torch, dtype))
        self.model = model.to(self.device).eval()  # type: ignore[arg-type]
        self.room = int(model.config.max_position_embeddings) - max_new_tokens  # tokens of a prompt

    def replies(
        self, chats: Sequence[Sequence[Mapping[str, str]]], *, batch: int
    ) -> Generator[tuple[int, str | None], None, None]:
        """Yields (place in `chats`, reply), None where the chat is longer than the model has room for.

        Args:
            chats: of {role, content}; a system message may come first.
            batch: chats at a time; those of similar length go together.
        """
        prompts = [self.ids(chat) for chat in chats]
        yield from ((place, None) for place, ids in enumerate(prompts) if len(ids) > self.room)
        fitting = [place for place, ids in enumerate(prompts) if len(ids) <= self.room]
        fitting.sort(key=lambda place: len(prompts[place]), reverse=True)  # what needs most memory comes first
        for start in range(0, len(fitting), batch):
            places = fitting[start : start + batch]
            yield from zip(places, self._generate([prompts[place] for place in places]), strict=True)

    def ids(self, chat: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a chat, up to where the reply begins."""
        messages = [dict(message) for message in chat]
        if self.merge_system and messages[0]["role"] == "system":
            first = f"{messages[0]['content']}\n\n{messages[1]['content']}"
            messages = [{"role": "user", "content": first}, *messages[2:]]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]  # the template has written them
        return ids

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]]) -> list[str]:
        """Greedy continuations of prompts, which are padded on the left."""
        length = max(len(ids) for ids in prompts)
        end = self.model.generation_config.eos_token_id if self.model.generation_config else None
        end = self.tokenizer.eos_token_id if end is None else end
        pad = self.tokenizer.pad_token_id
        if pad is None:  # masked, so that any id does
            pad = end[0] if isinstance(end, list) else end
        ids = torch.tensor([[pad] * (length - len(each)) + each for each in prompts], device=self.device)
        mask = torch.tensor([[0] * (length - len(each)) + [1] * len(each) for each in prompts], device=self.device)
        # Of the shipped generation settings only the end tokens count: the others are for sampling.
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False, max_new_tokens=self.max_new_tokens, eos_token_id=end, pad_token_id=pad
        )
        output: Tensor = self.model.generate(ids, attention_mask=mask, generation_config=settings)
        return [str(text).strip() for text in self.tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)]
