"""Settings that belong together, by name: methods and presets."""

from enum import StrEnum
from typing import Any


class Method(StrEnum):
    """The methods by name: one loop, different settings."""

    APPO = "appo"
    PPO_FIXED = "ppo-fixed"
    PPO_PREVIOUS = "ppo-previous"
    BEST_OF_N = "best-of-n"


METHODS: dict[str, dict[str, Any]] = {
    Method.APPO: {"anchor": {"kind": "adaptive"}, "ppo": {"learning": True}},
    Method.PPO_FIXED: {"anchor": {"kind": "fixed"}, "ppo": {"learning": True}},
    Method.PPO_PREVIOUS: {"anchor": {"kind": "previous"}, "ppo": {"learning": True}},
    Method.BEST_OF_N: {"anchor": {"kind": "fixed"}, "ppo": {"learning": False}},
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # Table 6 and section 4 of the paper. Not printed there, taken from the released code or its
    # library: LoRA 16/32, 16 examples a prompt, 4 PPO epochs, KL coefficient 0.2.
    "paper": {
        "steps": 200,
        "agent": {
            "adapter": "none",
            "temperature": 1.0,
            "lora_rank": 16,
            "lora_alpha": 32,
            "max_prompt_tokens": 150,
            "meta_prompt": "paper",
            "num_demonstrations": 5,
        },
        "target": {
            "position": "user",
            "separator": " ",
            "input_format": "Input : {text} Output :",
        },
        "reward": {"accuracy_weight": 10.0, "softmax_weight": 0.1, "fault_reward": 0.0},
        "ppo": {
            "learning_rate": 1e-5,
            "prompts_per_step": 4,
            "minibatch_size": 4,
            "ppo_epochs": 4,
            "advantage": "gae",
            "kl_coef": 0.2,
        },
        "anchor": {"update_period": 5, "update_threshold": 0.05, "rollback_threshold": 0.1},
        "selection": {"num_finalists": 5},
    },
}
