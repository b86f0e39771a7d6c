"""Answers requests for captions with vLLM. Runs alone, in an environment of its own: nothing else of here is needed.

    python -m venv vllm && vllm/bin/pip install vllm
    vllm/bin/python recaption_vllm.py requests.jsonl responses.jsonl --model meta-llama/Meta-Llama-3-8B-Instruct

The model is read from the local Hub cache (HF_HUB_OFFLINE=1 makes sure) or a folder. Started again with the same files,
it answers what is left. Requests: JSON lines of {"id", "messages", "max_tokens", "temperature", "top_p", "seed"}.
Responses: JSON lines of {"id", "text", "finish", "model"}. What begins all prompts alike is computed once (prefix
caching), and prompts are handed over sorted by length, some thousands at a time.
"""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def main(arguments: "list[str] | None" = None) -> None:
    """Reads the requests, answers those without a response, appends the responses."""
    options = _options().parse_args(arguments)
    requests = [json.loads(line) for line in options.requests.read_text(encoding="utf-8").splitlines()]
    done = _done(options.responses)
    todo = sorted((each for each in requests if each["id"] not in done), key=_length, reverse=True)
    print(f"{len(requests)} requests, {len(requests) - len(todo)} answered", file=sys.stderr)
    if not todo:
        return
    vllm: Any = importlib.import_module("vllm")
    engine = vllm.LLM(
        model=options.model,
        dtype=options.dtype,
        quantization=options.quantization,
        tensor_parallel_size=options.tensor_parallel_size,
        max_model_len=options.max_model_len,
        enable_prefix_caching=True,
    )
    with open(options.responses, "a", encoding="utf-8") as file:
        for start in range(0, len(todo), options.at_once):
            some = todo[start : start + options.at_once]
            answers = engine.chat([each["messages"] for each in some], [_sampling(vllm, each) for each in some])
            for request, answer in zip(some, answers, strict=True):
                reply = answer.outputs[0]
                row = {"id": request["id"], "text": reply.text, "finish": reply.finish_reason, "model": options.model}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            print(f"{start + len(some)} of {len(todo)}", file=sys.stderr)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Answers requests for captions with vLLM.")
    parser.add_argument("requests", type=Path)
    parser.add_argument("responses", type=Path)
    parser.add_argument("--model", required=True, help="folder, or id of a fetched Hub repository")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quantization", help="such as fp8")
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--max-model-len", type=int, default=2048, help="tokens of a prompt and its reply")
    parser.add_argument("--at-once", type=int, default=4096, help="requests between two writes")
    return parser


def _length(request: "dict[str, Any]") -> int:
    return sum(len(message["content"]) for message in request["messages"])


def _sampling(vllm: Any, request: "dict[str, Any]") -> Any:
    names = ("max_tokens", "temperature", "top_p", "seed")
    return vllm.SamplingParams(**{name: request[name] for name in names})


def _done(path: Path) -> "set[str]":
    """Ids that have a response; a last line that was cut off is removed."""
    if not path.exists():
        return set()
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return {json.loads(line)["id"] for line in content[:whole].splitlines()}


if __name__ == "__main__":
    main()
