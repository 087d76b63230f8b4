"""Settings: what is refused, which layer wins, what the presets say, and the settings files."""

import json
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stableprompt.cli.settings_file import read_settings
from stableprompt.config import METHODS, PRESETS, TuneConfig, make_config, merge
from stableprompt.errors import ConfigError, StablePromptError


def nested(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


def value_of(config: TuneConfig, dotted: str) -> Any:
    found: Any = config
    for part in dotted.split("."):
        found = getattr(found, part)
    return found


# --- what is refused ---


@pytest.mark.parametrize("name", ["learning_rate", "ppo.lr", "agent.lora.rank", "anchor.Kind"])
def test_an_unknown_setting_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="does not exist") as caught:
        make_config(nested(name, 1))
    assert f"'{name.rsplit('.rank')[0]}'" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("steps", 2.5),
        ("seed", -1),
        ("keep_checkpoints", 1),
        ("dtype", "int8"),
        ("attention", "flash"),
        ("compile", 2),
        ("quantize", "8bit"),
        ("target.dtype", "int8"),
        ("target.quantize", "8bit"),
        ("agent.temperature", 0),
        ("agent.lora_rank", 0),
        ("agent.max_prompt_tokens", 0),
        ("agent.num_demonstrations", 0),
        ("agent.meta_prompt", "mine"),
        ("agent.model", None),
        ("target.position", "assistant"),
        ("target.max_batch_tokens", 15),
        ("reward.accuracy_weight", -0.1),
        ("reward.examples_per_step", 0),
        ("ppo.learning_rate", 0),
        ("ppo.learning_rate", "fast"),
        ("ppo.prompts_per_step", 1),
        ("ppo.minibatch_size", 0),
        ("ppo.gae_lambda", 1.01),
        ("ppo.discount", -0.01),
        ("ppo.clip_range", 0),
        ("ppo.kl_coef", -1),
        ("ppo.advantage", "none"),
        ("ppo", 3),
        ("anchor.update_period", 0),
        ("anchor.update_threshold", -0.01),
        ("anchor.rollback_threshold", -0.01),
        ("anchor.prompts_per_decision", 1),
        ("anchor.kind", "moving"),
        ("guards.max_surprise", "much"),
        ("guards.require_instruction", 2),
        ("selection.num_finalists", 0),
        ("selection.rounds", 0),
        ("selection.demonstration_sets", 0),
        ("budget", 0),
        ("budget", 10.5),
        ("agent.shown_prompt", "best"),
        ("ppo.replay", -1),
        ("ppo.max_update_kl", 0),
        ("anchor.certainty", -0.1),
        ("anchor.rounds", 0),
        ("monitor.min_entropy_share", -0.1),
        ("monitor.min_unique_share", 1.1),
        ("monitor.max_refused_share", 1.1),
        ("monitor.max_step_kl", 0),
        ("monitor.max_clip_fraction", 1.1),
        ("monitor.max_gradient_ratio", 1),
        ("monitor.max_anchor_kl", 0),
        ("monitor.max_surprise_rise", 0),
        ("monitor.max_drop", 0),
    ],
)
def test_a_value_out_of_range_is_named_with_what_was_found(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(nested(name, value))
    message = str(caught.value)
    assert message.startswith(f"setting '{name}': ")
    assert message.endswith(f"found {value!r}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("agent.temperature", 1e-6),
        ("target.max_batch_tokens", 16),
        ("target.dtype", None),
        ("ppo.prompts_per_step", 2),
        ("ppo.gae_lambda", 1),
        ("ppo.discount", 0),
        ("anchor.update_threshold", 0),
        ("anchor.prompts_per_decision", 2),
        ("guards.max_surprise", None),
        ("guards.max_surprise", -1),
        ("budget", None),
        ("budget", 1),
        ("ppo.replay", 0),
        ("ppo.max_update_kl", None),
        ("anchor.kind", "none"),
        ("anchor.certainty", 0),
        ("anchor.rounds", 1),
        ("monitor.min_unique_share", 0),
        ("monitor.max_clip_fraction", 1),
        ("selection.rounds", 1),
        ("reward.fault_reward", -3),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(name: str, value: object) -> None:
    assert value_of(make_config(nested(name, value)), name) == value


@pytest.mark.parametrize(
    "name", ["reward.fault_reward", "ppo.learning_rate", "ppo.kl_coef", "agent.temperature"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_must_be_finite(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        make_config(nested(name, value))


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="'dpo' is unknown; use one of appo, appo-paper, ppo-fixed"
    ):
        make_config({"method": "dpo"})


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'papr' is unknown; use one of default, paper"):
        make_config(preset="papr")


def test_config_errors_can_be_caught_as_the_packages_and_as_value_errors() -> None:
    with pytest.raises(StablePromptError):
        make_config({"steps": -1})
    with pytest.raises(ValueError, match="steps"):
        make_config({"steps": -1})


# --- settings that must agree ---


def test_the_default_run_has_a_decision() -> None:
    config = make_config()
    assert config.steps >= config.anchor.update_period


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_run_may_be_too_short_for_an_anchor_decision(steps: int) -> None:
    config = make_config({"steps": steps})
    assert config.steps == steps < config.anchor.update_period


# --- methods, presets, layers ---


@pytest.mark.parametrize(
    ("method", "kind", "learning"),
    [
        ("appo", "adaptive", True),
        ("appo-paper", "adaptive", True),
        ("ppo-fixed", "fixed", True),
        ("ppo-previous", "previous", True),
        ("grpo", "fixed", True),
        ("best-of-n", "fixed", False),
        ("few-shot", "fixed", False),
        ("seed", "fixed", False),
    ],
)
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_method_is_a_kind_of_anchor_and_whether_the_policy_learns(
    method: str, kind: str, learning: bool, preset: str
) -> None:
    config = make_config({"method": method}, preset=preset)
    assert (config.method, config.anchor.kind, config.ppo.learning) == (method, kind, learning)


def test_without_anything_the_method_is_appo() -> None:
    config = make_config()
    assert (config.method, config.anchor.kind, config.ppo.learning) == ("appo", "adaptive", True)


def test_settings_that_contradict_the_method_are_refused() -> None:
    # Otherwise result.json would name a method that was not run.
    with pytest.raises(ConfigError, match=r"means ppo\.learning False.* choose another method"):
        make_config({"method": "best-of-n", "ppo": {"learning": True}})
    with pytest.raises(ConfigError, match="method 'appo' means"):
        make_config({"ppo": {"learning": False}})


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("method", ["few-shot", "seed"])
def test_methods_that_write_no_prompts_take_no_steps(method: str, preset: str) -> None:
    assert make_config({"method": method}, preset=preset).steps == 0


def test_only_few_shot_shows_examples_unless_they_are_asked_for() -> None:
    shown = {m: make_config({"method": m}).selection.num_demonstrations for m in METHODS}
    assert shown.pop("few-shot") > 0
    assert set(shown.values()) == {0}


# What each other method is elsewhere has none of what is added to PPO here.
@pytest.mark.parametrize("method", [m for m in METHODS if m != "appo"])
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_other_methods_have_no_replay_no_limit_and_nobody_who_steps_in(
    method: str, preset: str
) -> None:
    config = make_config({"method": method}, preset=preset)
    assert (config.ppo.replay, config.ppo.max_update_kl, config.monitor.act) == (0, None, False)


@pytest.mark.parametrize(
    ("method", "advantage"), [("ppo-fixed", "gae"), ("ppo-previous", "gae"), ("grpo", "group")]
)
def test_ppo_has_a_value_head_and_grpo_none(method: str, advantage: str) -> None:
    assert make_config({"method": method}).ppo.advantage == advantage
    assert make_config({"method": method}, preset="paper").ppo.advantage == advantage


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_papers_decisions_are_on_the_whole_split_and_ask_for_no_certainty(preset: str) -> None:
    anchor = make_config({"method": "appo-paper"}, preset=preset).anchor
    assert (anchor.certainty, anchor.rounds, anchor.update_period) == (0, 1, 5)


def test_settings_win_over_the_preset_and_leave_the_rest_of_it() -> None:
    config = make_config({"ppo": {"learning_rate": 0.5}}, preset="paper")
    assert config.ppo.learning_rate == 0.5
    assert config.ppo.prompts_per_step == 4
    assert config.steps == 200


def test_a_later_layer_wins_over_an_earlier_one() -> None:
    file = {"seed": 1, "ppo": {"ppo_epochs": 7, "minibatch_size": 3}}
    config = make_config(file, {"ppo": {"ppo_epochs": 9}}, {"seed": 2})
    assert (config.seed, config.ppo.ppo_epochs, config.ppo.minibatch_size) == (2, 9, 3)


def test_merging_changes_none_of_the_layers() -> None:
    first, second = {"a": {"b": 1}}, {"a": {"c": 2}}
    merged = merge(first, second)
    merged["a"]["d"] = 3
    assert (first, second) == ({"a": {"b": 1}}, {"a": {"c": 2}})
    assert merge({"a": {"b": 1}}, {"a": 5}) == {"a": 5}
    assert merge({"a": 5}, {"a": {"b": 1}}) == {"a": {"b": 1}}


PAPER = {
    # Table 6 and section 4 of Kwon et al. (2024).
    "ppo.learning_rate": 1e-5,
    "ppo.prompts_per_step": 4,
    "ppo.clip_range": 0.2,
    "ppo.value_coef": 0.1,
    "ppo.gae_lambda": 0.95,
    "ppo.discount": 1.0,
    "ppo.advantage": "gae",
    "agent.lora_rank": 16,
    "agent.lora_alpha": 32,
    "agent.max_prompt_tokens": 150,
    "agent.num_demonstrations": 5,
    "agent.meta_prompt": "paper",
    "agent.adapter": "none",
    "anchor.kind": "adaptive",
    "anchor.update_threshold": 0.05,
    "anchor.rollback_threshold": 0.1,
    "reward.accuracy_weight": 10.0,
    "reward.softmax_weight": 0.1,
}


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_preset_is_the_paper(name: str) -> None:
    assert value_of(make_config(preset="paper"), name) == PAPER[name]
    assert value_of(make_config({"method": "appo-paper"}, preset="paper"), name) == PAPER[name]


@pytest.mark.parametrize("name", [n for n in PAPER if not n.startswith("agent.")])
def test_the_papers_method_trains_as_the_paper_does(name: str) -> None:
    assert value_of(make_config({"method": "appo-paper"}), name) == PAPER[name]


# --- the model ---


def test_a_configuration_never_changes() -> None:
    config = make_config()
    with pytest.raises(ValidationError, match="frozen"):
        config.steps = 3
    with pytest.raises(ValidationError, match="frozen"):
        config.ppo.learning_rate = 3.0


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", list(METHODS))
def test_what_is_dumped_is_taken_back(preset: str, method: str) -> None:
    given = {"method": method, "seed": 3, "guards": {"max_surprise": None}}
    config = make_config(given, preset=preset)
    assert make_config(config.model_dump()) == config
    assert make_config(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_every_setting_says_what_it_means() -> None:
    sections = [field.annotation for field in TuneConfig.model_fields.values()]
    silent = [
        f"{model.__name__}.{name}"
        for model in [TuneConfig, *(s for s in sections if hasattr(s, "model_fields"))]
        for name, field in model.model_fields.items()
        if not field.description and not hasattr(field.annotation, "model_fields")
    ]
    assert silent == []


# --- settings files ---

TOML = """
steps = 30
[ppo]
learning_rate = 1e-4
advantage = "gae"
[guards]
reject_copies = false
"""
YAML = """
steps: 30
ppo:
  learning_rate: 0.0001
  advantage: gae
guards: {reject_copies: false}
"""
MEANT = {
    "steps": 30,
    "ppo": {"learning_rate": 1e-4, "advantage": "gae"},
    "guards": {"reject_copies": False},
}


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(("name", "content"), [("s.toml", TOML), ("s.yaml", YAML), ("s.yml", YAML)])
def test_settings_files_hold_nested_settings(tmp_path: Path, name: str, content: str) -> None:
    assert read_settings(written(tmp_path, name, content)) == MEANT


@pytest.mark.parametrize("name", ["s.toml", "s.yaml"])
def test_an_empty_settings_file_changes_nothing(tmp_path: Path, name: str) -> None:
    assert read_settings(written(tmp_path, name, "# nothing yet\n")) == {}


def test_yaml_reads_1e_minus_4_as_text_and_the_setting_is_a_number_all_the_same(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, "s.yaml", "ppo: {learning_rate: 1e-4}")
    assert make_config(read_settings(path)).ppo.learning_rate == 1e-4


def test_yaml_none_switches_the_check_for_babble_off(tmp_path: Path) -> None:
    path = written(tmp_path, "s.yaml", "guards: {max_surprise: null}")
    assert make_config(read_settings(path)).guards.max_surprise is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.toml", "steps = = 3", "does not parse"),
        ("s.yaml", "ppo: {a: [1, 2", "does not parse"),
        ("s.yaml", "a: !!python/object/apply:os.getcwd []", "does not parse"),
        ("s.yaml", "when: 2024-13-45", "does not parse"),
        ("s.yaml", "- steps\n- 30\n", "must hold named settings, found list"),
        ("s.yaml", "just words", "must hold named settings, found str"),
        ("s.yaml", "[]", "must hold named settings, found list"),
        ("s.txt", "{}", r"must end in \.toml, \.yaml, \.yml or \.json"),
        ("settings", "steps = 3", r"must end in \.toml, \.yaml, \.yml or \.json"),
        ("s.toml", b"name = '\xff'", "cannot be read"),
        ("s.yaml", b"name: '\xff'", "cannot be read"),
    ],
)
def test_a_settings_file_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_settings(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_settings_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings(tmp_path / name)


def test_names_of_settings_must_be_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        make_config(read_settings(written(tmp_path, "s.yaml", "1: 2")))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_url", "https://user:canary-42@host/v1"),
        ("base_url", "https://host/v1?key=canary-42"),
        ("base_url", "https://canary-42\\@host/v1"),
        ("key_variable", "sk-canary-42"),
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(field: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"setting 'target\.api\.{field}': it must be") as caught:
        make_config({"target": {"api": {field: value}}})
    # Nor in what a program that does not catch it would print.
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_half_a_character_is_refused_before_it_is_to_be_written() -> None:
    with pytest.raises(ConfigError, match="half a character"):
        make_config({"target": {"separator": "a\ud83d"}})
    with pytest.raises(ConfigError, match="half a character"):
        make_config({"agent": {"model": "\udcff"}})


def test_a_long_value_is_shown_in_part() -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({"steps": "x" * 10**6})
    assert len(str(caught.value)) < 400
