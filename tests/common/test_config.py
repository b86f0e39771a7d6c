"""The checks of a configuration: targets, arguments, secrets."""

import pytest

from common import config


def test_an_argument_that_does_not_exist_suggests_the_near_one() -> None:
    node = {"optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "weight_deca": 0.1}}
    with pytest.raises(config.ConfigError, match="did you mean weight_decay"):
        config.bind(node)


def test_missing_arguments_are_named_unless_partial() -> None:
    node = {"_target_": "common.callbacks.seeding.Seeding"}
    with pytest.raises(config.ConfigError, match="seed"):
        config.bind(node)
    assert config.bind(node | {"_partial_": True}) == 1


def test_targets_are_bound_at_every_depth() -> None:
    inner = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1}
    assert config.bind({"a": [{"b": inner}], "c": inner}) == 2


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "common.files.os.system",
        "common.run.subprocess.run",
        "common.files",
    ],
)
def test_targets_outside_the_list_are_refused_also_by_alias(target: str) -> None:
    with pytest.raises(config.ConfigError):
        config.bind({"_target_": target})


@pytest.mark.parametrize("value", ["hf_" + "a1B2" * 8, "0123456789" * 4, "sk-" + "x" * 24])
def test_values_that_look_like_tokens_are_refused_without_being_shown(value: str) -> None:
    with pytest.raises(config.ConfigError, match=r"logger\.key") as caught:
        config.refuse_secrets({"logger": {"key": value}})
    assert value not in str(caught.value)


@pytest.mark.parametrize("node", [{"decay": 0.9}, None])
def test_settings_of_a_callback_that_is_not_chosen_are_refused(node: object) -> None:
    config.refuse_loose_settings({"callbacks": {"ema": {"_target_": "common.ema.Ema"}}, "logger": {}})
    with pytest.raises(config.ConfigError, match=r"callbacks\.ema is no callback.* ~callbacks\.ema leaves it out"):
        config.refuse_loose_settings({"callbacks": {"ema": node}})


def test_accumulation_must_divide() -> None:
    assert config.accumulate(32, 4, 8, 1) == 1
    assert config.accumulate(32, 2, 1, 1) == 16
    with pytest.raises(config.ConfigError, match=r"batch\.micro=3"):
        config.accumulate(32, 3, 8, 1)
