"""What is said of settings that cannot be used."""

import pytest

from stableprompt.config import TuneConfig, make_config
from stableprompt.config_errors import names_of
from stableprompt.errors import ConfigError

ELSEWHERE = "did you mean agent.model or target.model or judge.model?"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": "three"}, "setting 'steps': must be a whole number, found 'three'"),
        ({"ppo": {"replay": 1.5}}, "setting 'ppo.replay': must be a whole number, found 1.5"),
        ({"ppo": {"clip_range": -1}}, "setting 'ppo.clip_range': must be more than 0, found -1"),
        ({"seed": -1}, "setting 'seed': must be at least 0, found -1"),
        ({"ppo": {"discount": 2}}, "setting 'ppo.discount': must be at most 1, found 2"),
        ({"limits": {"max_cost": "x"}}, "setting 'limits.max_cost': must be a number, found 'x'"),
        (
            {"ppo": {"learning_rate": float("inf")}},
            "setting 'ppo.learning_rate': must be a finite number, found inf",
        ),
        (
            {"target": {"check_labels": "maybe"}},
            "setting 'target.check_labels': must be true or false, found 'maybe'",
        ),
        (
            {"anchor": {"kind": "fixd"}},
            "must be 'adaptive', 'fixed', 'previous' or 'none', found 'fixd'",
        ),
        ({"ppo": 3}, "setting 'ppo': must be a group of settings, each by its name, found 3"),
        ({"target": {"format": "x" * 300}}, f"found '{'x' * 199}…"),
    ],
)
def test_a_value_is_told_what_it_must_be(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(settings)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "instead"),
    [
        ({"stepz": 3}, "setting 'stepz' does not exist; did you mean steps?"),
        ({"ppo": {"lerning_rate": 1}}, "did you mean ppo.learning_rate?"),
        ({"learning_rate": 1}, "did you mean ppo.learning_rate?"),
        ({"model": "x"}, ELSEWHERE),
        ({"anchor": {"zzz": 1}}, "'anchor.zzz' does not exist; anchor has kind, "),
        ({"target": {"ray": {"actor": 3}}}, "did you mean target.ray.actors?"),
        ({"zzz": 1}, "config.json of any run lists them all"),
    ],
)
def test_a_wrong_name_is_told_another(settings: dict[str, object], instead: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(settings)
    assert instead in str(caught.value)


def test_every_setting_has_its_name() -> None:
    names = list(names_of(TuneConfig))
    assert len(names) == len(set(names)) > 80
    for name in names:
        value = make_config().model_dump()
        for part in name.split("."):
            if value is not None:  # a section that is not there by default
                value = value[part]
