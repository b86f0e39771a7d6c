"""Asking a judge about every answer, in rounds: those whose reply cannot be read are asked again, a few times."""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from common.progress import track
from common.qa.benchmarks import ANSWER, Item
from common.qa.cache import ReplyCache, judge_digest
from common.qa.judges import Chat, Judge, JudgeError
from common.qa.prompts import Message, Prompts
from common.qa.replies import Grade, read_reply

log = logging.getLogger(__name__)

Key = tuple[str, str]  # aspect, item id


class Verdict(NamedTuple):
    """What came of asking about one aspect of one item.

    Attributes:
        grade: None where the reply could not be read, or there is none.
        reply: the last reply.
        attempts: how many replies there were.
        refusal: why the judge would not grade this one.
        model: what answered, by its own account.
        time: of the last reply, UTC; None without one.
    """

    grade: Grade | None
    reply: str | None
    attempts: int
    refusal: str | None
    model: str | None
    time: str | None


def judge_all(
    items: Sequence[Item],
    texts: Mapping[str, Sequence[str]],
    *,
    judge: Judge,
    prompts: Prompts,
    cache: ReplyCache,
    tries: int,
    max_refused: float,
) -> dict[Key, Verdict]:
    """Asks about every aspect of every item that has an answer.

    A reply that cannot be read is followed by a reminder and asked again, until `tries` replies are there; then the
    item counts as unparsed. Answers that read the same (question, reference and prediction alike) are asked about once.

    Args:
        items: of the benchmark.
        texts: predictions by item id.
        judge: who grades.
        prompts: the wording.
        cache: replies so far.
        tries: most replies for one question, >= 1.
        max_refused: share of the questions that the judge may refuse.

    Raises:
        JudgeError: the judge cannot go on, or refuses more than that.
    """
    pending: dict[Key, list[Message]] = {
        (aspect, item.id): prompts.messages(aspect, item, texts[item.id])
        for item in items
        if item.id in texts
        for aspect in item.aspects
    }
    limit = max_refused * len(pending)
    verdicts: dict[Key, Verdict] = {}
    for attempt in range(1, tries + 1):
        chats = [Chat(aspect, name, attempt, messages) for (aspect, name), messages in pending.items()]
        verdicts |= _round(chats, judge=judge, cache=cache, limit=limit)
        pending = {
            key: [*messages, {"role": "assistant", "content": reply.strip() or "-"}, _reminder(prompts)]
            for key, messages in pending.items()
            if verdicts[key].grade is None and (reply := verdicts[key].reply) is not None
        }
        if not pending:
            break
        log.info("%d replies of round %d could not be read", len(pending), attempt)
    return verdicts


def _reminder(prompts: Prompts) -> Message:
    return {"role": "user", "content": prompts.reminder}


def _round(chats: Sequence[Chat], *, judge: Judge, cache: ReplyCache, limit: float) -> dict[Key, Verdict]:
    """A verdict for each chat, from the cache or from the judge."""
    name = judge_digest(judge.identity)
    unknown = [chat for chat in chats if cache.find(name, chat) is None]
    asked = list({chat.prompt: chat for chat in reversed(unknown)}.values())[::-1]  # the first of those that read alike
    if chats:
        known, alike = len(chats) - len(unknown), len(unknown) - len(asked)
        log.info("%d questions for the judge: %d known, %d alike, %d to ask", len(chats), known, alike, len(asked))
    refusals: dict[str, str] = {}
    replies = judge.ask(asked)
    try:
        for place, reply in track(replies, description="judge", total=len(asked)):
            if reply.text is not None:
                cache.add(name, asked[place], reply)
                continue
            refusals[asked[place].prompt] = reply.refusal or "no reason given"
            if len(refusals) > limit:
                raise JudgeError(
                    f"the judge refuses {len(refusals)} of {len(chats)} questions, the last with: {reply.refusal}; "
                    "mend the cause, or allow more with max_refused"
                )
    finally:
        replies.close()  # no further request is sent
    return {(chat.aspect, chat.id): _verdict(chat, name, cache, refusals) for chat in chats}


def _verdict(chat: Chat, judge: str, cache: ReplyCache, refusals: Mapping[str, str]) -> Verdict:
    row = cache.find(judge, chat)
    if row is None:
        return Verdict(None, None, chat.attempt - 1, refusals[chat.prompt], None, None)
    grade = read_reply(row["reply"], verdict=chat.aspect == ANSWER)
    return Verdict(grade, row["reply"], chat.attempt, None, row["model"], row["time"])
