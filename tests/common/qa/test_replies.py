"""Replies are read as models write them, and not where they leave a doubt."""

import pytest

from common.qa.replies import Grade, read_reply, rounded


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("{'score': 4.8}", 4.8),
        ("{'score': 4}", 4),
        ('{"score": 0}', 0),
        ("Sure! Here it is:\n```python\n{'score': 3}\n```\nHope this helps.", 3),
        ("{''score': 4.8}", 4.8),  # as in the published example
        ("{'score': '4'}", 4),
        ("{'score': '4/5'}", 4),
        ("{'score': 4/5}", 4),
        ("{score: 2}", 2),
        ("{\u2018score\u2019: 2.5}", 2.5),
        ("{{'score': 1}}", 1),
        ("{'score': 3", 3),  # cut off
        ("{'Score': 5, 'reason': 'fine'}", 5),
        ("{'score': 2} and once more {'score': 2}", 2),
        ("{'reason': 'it's right', 'score': 4}", 4),
    ],
)
def test_scores_are_found(reply: str, score: float) -> None:
    assert read_reply(reply, verdict=False) == Grade(score, None)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "score: 4",  # no dictionary
        "{'score': 6}",
        "{'score': -1}",
        "{''score': -1}",
        "{''score': 14}",
        "{''score': 4/10}",
        "{''score': 3-4}",
        "{'score': True}",
        "{'score': None}",
        "{'score': nan}",
        "{'score': 1e999}",
        "{'score': 'high'}",
        "{'grade': 4}",
        "{'score': 2} or rather {'score': 4}",
        "{" * 5000 + "'score': 1",
        "{'score': __import__('os').getpid()}",
    ],
)
def test_what_leaves_a_doubt_is_no_score(reply: str) -> None:
    if reply.startswith("{{{"):
        assert read_reply(reply, verdict=False) == Grade(1, None)  # no recursion on the way
    else:
        assert read_reply(reply, verdict=False) is None


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("{'pred': 'yes', 'score': 4.8}", Grade(4.8, True)),
        ('{"pred": "no", "score": 0}', Grade(0, False)),
        ("{'pred': 'Yes.', 'score': 5}", Grade(5, True)),
        ("{'pred': yes, 'score': 5}", Grade(5, True)),
        ("{pred: no, score: 1}", Grade(1, False)),
        ("{'pred': 'maybe', 'score': 3}", None),
        ("{'score': 3}", None),
        ("{'pred': 'yes'}", None),
        ("{'pred': 'yes or no', 'score': 3}", None),
        ("yes, 4", None),
    ],
)
def test_zero_shot_replies_hold_a_verdict_too(reply: str, grade: Grade | None) -> None:
    assert read_reply(reply, verdict=True) == grade


def test_truncation_is_that_of_the_published_evaluation() -> None:
    assert [rounded(score, "truncate") for score in (4.8, 4.0, 0.9, 5.0)] == [4, 4, 0, 5]
    assert rounded(4.8, "exact") == 4.8
