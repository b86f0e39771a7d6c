"""A prompt template as the Jinja that transformers reads from `chat_template.jinja`."""

import json
from collections.abc import Mapping
from typing import Literal

from common.text.prompt import Template

# A part of a message may be text or something seen; what is seen becomes its tokens, parts are joined by line breaks.
BODY = """\
{%- if SYSTEM and not (messages and messages[0]['role'] == 'system') -%}
  {{- BEFORE_SYSTEM ~ SYSTEM ~ AFTER_SYSTEM -}}
{%- endif -%}
{%- for message in messages -%}
  {%- set parts = message['content'] -%}
  {%- if parts is string -%}
    {%- set parts = [{'type': 'text', 'text': parts}] -%}
  {%- endif -%}
  {%- set ns = namespace(seen='', text='', said=[], written='', last='') -%}
  {%- for part in parts -%}
    {%- if part['type'] in TOKENS -%}
      {%- set token = TOKENS[part['type']] -%}
      {%- set ns.written = ns.written ~ ('\\n' if ns.last == 'text' else '') ~ token -%}
      {%- set ns.seen = ns.seen ~ token -%}
      {%- set ns.said = ns.said + [ns.text | trim] -%}
      {%- set ns.text = '' -%}
      {%- set ns.last = 'seen' -%}
    {%- elif part['type'] != 'text' -%}
      {{- raise_exception('a part of type ' ~ part['type'] ~ ' has no place in this template') -}}
    {%- else -%}
      {%- set ns.written = ns.written ~ ('\\n' if ns.last else '') ~ part['text'] -%}
      {%- set ns.text = ns.text ~ ('\\n' if ns.last == 'text' else '') ~ part['text'] -%}
      {%- set ns.last = 'text' -%}
    {%- endif -%}
  {%- endfor -%}
  {%- set question = (ns.said + [ns.text | trim]) | select | join(' ') -%}
  {%- if message['role'] == 'system' -%}
    {{- BEFORE_SYSTEM ~ ns.written ~ AFTER_SYSTEM -}}
  {%- elif message['role'] == 'user' -%}
    {{- BEFORE_USER ~ (USER if ns.seen else BEFORE_PLAIN_USER ~ ns.written) -}}
    {%- if add_generation_prompt or not loop.last -%}
      {{- BEFORE_ASSISTANT -}}
    {%- endif -%}
  {%- else -%}
    {%- generation -%}
      {{- BEFORE_ANSWER ~ ns.written ~ END -}}
    {%- endgeneration -%}
    {{- AFTER_END -}}
  {%- endif -%}
{%- endfor -%}
"""
USER = {
    "first": "ns.seen ~ ('\\n' if question else '') ~ question",
    "last": "question ~ ('\\n' if question else '') ~ ns.seen",
    "as_written": "ns.written",
}


def chat_template(
    template: Template, *, tokens: Mapping[str, str], place: Literal["first", "last", "as_written"]
) -> str:
    """Writes what `common.text.prompt.render` and `place_video` do, for messages of transformers.

    Between the markers of generation stands what is learned: the answer with its end token. The opening token of the
    sequence is left to the tokenizer.

    Args:
        template: the strings around the texts.
        tokens: what is seen as a part of a message, by type, such as {"image": "<image>"}; the processor repeats it.
        place: where that stands in its message.
    """
    strings = {
        "BEFORE_SYSTEM": template.before_system,
        "AFTER_SYSTEM": template.after_system,
        "SYSTEM": template.system,
        "BEFORE_USER": template.before_user,
        "BEFORE_PLAIN_USER": template.before_plain_user,
        "BEFORE_ASSISTANT": template.before_assistant,
        "BEFORE_ANSWER": template.before_answer,
        "END": template.end,
        "AFTER_END": template.after_end,
    }
    values = {name: json.dumps(value) for name, value in strings.items()} | {"TOKENS": json.dumps(dict(tokens))}
    head = "".join(f"{{%- set {name} = {value} -%}}\n" for name, value in values.items())
    return head + BODY.replace("(USER if", f"({USER[place]} if")
