"""Replies of a local model are those of plain greedy decoding, in batches as one at a time."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from common.qa.judges import Chat, JudgeError
from common.qa.local import Local
from common.qa.prompts import Message
from common.text.chat import CausalChat

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "system", "user", "assistant", ":", *(f"w{n}" for n in range(24))]
TEMPLATE = (
    "<s>{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "tiny"
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=64, bos_token_id=1, eos_token_id=2, **size)
    config.initializer_range = 0.5  # so that replies differ
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def chat(*words: int) -> list[Message]:
    content = " ".join(f"w{n}" for n in words)
    return [{"role": "system", "content": "w1 w2"}, {"role": "user", "content": content}]


CHATS = [chat(1, 2, 3), chat(4), chat(*range(12)), chat(7, 7)]


def test_batches_reply_as_plain_greedy_decoding_does(weights: Path) -> None:
    model = CausalChat(weights=str(weights), dtype="float32", device="cpu", max_new_tokens=8)
    expected = []
    for each in CHATS:
        ids = torch.tensor([model.ids(each)])
        for _ in range(8):
            ids = torch.cat([ids, model.model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
            if ids[0, -1] == 2:
                break
        new = ids[0, len(model.ids(each)) :]
        expected.append(model.tokenizer.decode(new, skip_special_tokens=True).strip())
    assert len(set(expected)) > 1
    for batch in (1, 3):
        assert dict(model.replies(CHATS, batch=batch)) == dict(enumerate(expected))


def test_the_template_writes_all_special_tokens(weights: Path) -> None:
    model = CausalChat(weights=str(weights), dtype="float32", device="cpu")
    text = model.tokenizer.decode(model.ids(chat(5)))
    assert text == "<s> system : w1 w2 </s> user : w5 </s> assistant :"
    merged = CausalChat(weights=str(weights), dtype="float32", device="cpu", merge_system=True)
    assert merged.tokenizer.decode(merged.ids(chat(5))) == "<s> user : w1 w2 w5 </s> assistant :"


def test_a_judge_refuses_what_is_too_long_and_loads_nothing_for_nothing(weights: Path) -> None:
    judge = Local(weights=str(weights), dtype="float32", device="cpu", max_new_tokens=8)
    assert list(judge.ask([])) == []
    assert judge._model is None
    asked = [Chat("answer", str(n), 1, messages) for n, messages in enumerate([*CHATS, chat(*[3] * 60)])]
    replies = dict(judge.ask(asked))
    assert replies[4].text is None
    assert "longer than 56 tokens" in str(replies[4].refusal)
    assert all(replies[n].text is not None for n in range(4))
    assert replies[0].model == "tiny"


def test_a_folder_is_known_by_its_content(weights: Path, tmp_path: Path) -> None:
    identity = Local(weights=str(weights)).identity
    moved = tmp_path / "tiny"
    moved.mkdir()
    for file in weights.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert Local(weights=str(moved)).identity == identity
    content = bytearray((moved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (moved / "model.safetensors").write_bytes(content)
    assert Local(weights=str(moved)).identity != identity


def test_what_cannot_chat_is_named(weights: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    PreTrainedTokenizerFast.from_pretrained(weights, chat_template=None).save_pretrained(bare)
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    asked = [Chat("answer", "0", 1, CHATS[0])]
    with pytest.raises(JudgeError, match="has no chat template"):
        list(Local(weights=str(bare)).ask(asked))
    with pytest.raises(JudgeError, match=r"judge\.weights=.*nowhere"):
        list(Local(weights=str(tmp_path / "nowhere")).ask(asked))
