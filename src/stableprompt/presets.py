"""Settings that belong together, by name: methods and presets."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Method(StrEnum):
    """The methods by name: one loop, different settings."""

    APPO = "appo"
    """Our default."""
    APPO_PAPER = "appo-paper"
    """The paper's: its coefficients, a value head, its plain anchor decisions."""
    PPO_FIXED = "ppo-fixed"
    """PPO with a value head and the first policy as reference, as in RLHF."""
    PPO_PREVIOUS = "ppo-previous"
    """PPO with a value head and the policy before each step as reference."""
    GRPO = "grpo"
    """Advantages relative to the group, no value head, the first policy as reference."""
    BEST_OF_N = "best-of-n"
    """Nothing is learned: many prompts of a frozen agent, the best of them."""
    FEW_SHOT = "few-shot"
    """The seed prompt with demonstrations, by random search."""
    SEED = "seed"
    """The seed prompt as it is."""


# What appo adds to PPO is off in the others: they are what they are elsewhere.
_PLAIN: dict[str, Any] = {"replay": 0, "exploration": 0.0, "max_update_kl": None}
_PLAIN_PPO: dict[str, Any] = {"ppo": {"learning": True, **_PLAIN}, "monitor": {"act": False}}
_FROZEN: dict[str, Any] = {
    "anchor": {"kind": "fixed"},
    "ppo": {"learning": False, **_PLAIN},
    "monitor": {"act": False},
}

# Table 6 and section 4 of the paper. Not printed there, taken from the released code or its
# library: 16 examples a prompt, 4 PPO epochs, KL coefficient 0.2.
_PAPER_TRAINING: dict[str, Any] = {
    "reward": {
        "accuracy_weight": 10.0,
        "softmax_weight": 0.1,
        "fault_reward": 0.0,
        "examples_per_step": 16,
    },
    "ppo": {
        "learning_rate": 1e-5,
        "prompts_per_step": 4,
        "minibatch_size": 4,
        "ppo_epochs": 4,
        "advantage": "gae",
        "kl_coef": 0.2,
        **_PLAIN,
    },
    "anchor": {
        "kind": "adaptive",
        "update_period": 5,
        "update_threshold": 0.05,
        "rollback_threshold": 0.1,
        "certainty": 0.0,
        "max_examples": None,
        "rounds": 1,
    },
    "monitor": {"act": False},
    "selection": {"num_finalists": 5, "rounds": 1},
}


def merge(*layers: dict[str, Any]) -> dict[str, Any]:
    """Nested settings, later layers over earlier ones."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, dict) and isinstance(merged.get(key), dict):
                merged[key] = merge(merged[key], value)
            else:
                merged[key] = value
    return merged


def _with(settings: dict[str, Any], **sections: dict[str, Any]) -> dict[str, Any]:
    return merge(settings, sections)


METHODS: dict[str, dict[str, Any]] = {
    Method.APPO: {"anchor": {"kind": "adaptive"}, "ppo": {"learning": True}},
    Method.APPO_PAPER: _with(_PAPER_TRAINING, ppo={"learning": True}),
    Method.PPO_FIXED: _with(_PLAIN_PPO, anchor={"kind": "fixed"}, ppo={"advantage": "gae"}),
    Method.PPO_PREVIOUS: _with(_PLAIN_PPO, anchor={"kind": "previous"}, ppo={"advantage": "gae"}),
    Method.GRPO: _with(_PLAIN_PPO, anchor={"kind": "fixed"}, ppo={"advantage": "group"}),
    Method.BEST_OF_N: _FROZEN,
    Method.FEW_SHOT: {
        **_FROZEN,
        "steps": 0,
        "selection": {"num_demonstrations": 5, "demonstration_sets": 32},
    },
    Method.SEED: {**_FROZEN, "steps": 0},
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": _with(
        _PAPER_TRAINING,
        agent={
            "adapter": "none",
            "temperature": 1.0,
            "lora_rank": 16,
            "lora_alpha": 32,
            "max_prompt_tokens": 150,
            "meta_prompt": "paper",
            "num_demonstrations": 5,
        },
        target={"position": "user", "separator": " ", "input_format": "Input : {text} Output :"},
    )
    | {"steps": 200},
}


def flattened(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names, as ``--set`` takes them.

    >>> flattened({"ppo": {"replay": 0}, "steps": 5})
    {'ppo.replay': 0, 'steps': 5}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        inner = isinstance(value, Mapping)
        flat |= flattened(value, f"{above}{key}.") if inner else {f"{above}{key}": value}
    return flat
