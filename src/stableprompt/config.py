"""Every setting, in one place: its type, default, meaning and limits.

The command line, the settings file (TOML or YAML) and ``config.json`` in the run folder are all
this model. Unknown keys are errors. Values never change after construction.
"""

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from stableprompt.config_errors import explain
from stableprompt.errors import ConfigError
from stableprompt.llm_config import AgentConfig as AgentConfig
from stableprompt.llm_config import Dtype as Dtype
from stableprompt.llm_config import JudgeConfig as JudgeConfig
from stableprompt.llm_config import LimitsConfig
from stableprompt.llm_config import Quantisation as Quantisation
from stableprompt.llm_config import Section as Section
from stableprompt.llm_config import TargetConfig as TargetConfig
from stableprompt.presets import METHODS, PRESETS, Method
from stableprompt.presets import merge as merge


class RewardConfig(Section):
    """reward = accuracy_weight * score + softmax_weight * softmax difference (eq. 13)."""

    accuracy_weight: float = Field(1.0, ge=0)
    """c_a; the weight of the score, whichever the metric."""
    softmax_weight: float = Field(0.5, ge=0)
    """c_s; generated answers have no softmax difference."""
    examples_per_step: int = Field(8, ge=1)
    """Training examples that all prompts of a step are scored on; drawn afresh every step."""
    fault_reward: float = -0.5
    """Reward of a rejected prompt, which is not sent to the target."""


class PPOConfig(Section):
    """How the policy learns."""

    learning: bool = True
    """False leaves the policy as it is: best-of-N."""
    learning_rate: float = Field(5e-4, gt=0)
    """AdamW's."""
    prompts_per_step: int = Field(16, ge=2)
    """P: prompts written for one query and scored on the same examples."""
    ppo_epochs: int = Field(2, ge=1)
    """Passes over a rollout."""
    replay: int = Field(8, ge=0)
    """So many of the best prompts so far are learned from again in every step: their reward is the
    seed prompt's on the step's examples plus the difference of the two ratings. No target call."""
    exploration: float = Field(0.5, ge=0, lt=1)
    """Share of a step's prompts that the first policy writes, as soon as the policy is another one:
    while training narrows the policy down, the search goes on where it began. Not where prompts are
    written for each input."""
    max_update_kl: float | None = Field(0.3, gt=0)
    """An update that moves the policy further than this (KL from the policy before it, nats per
    token) is undone and made again with half the learning rate; null accepts every update."""
    minibatch_size: int = Field(32, ge=1)
    """Prompts of one optimizer step."""
    advantage: Literal["group", "gae"] = "group"
    """group: relative to the step's mean, no value head; gae: value head, whitened (paper)."""
    discount: float = Field(1.0, ge=0, le=1)
    """gamma."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """lambda."""
    clip_range: float = Field(0.2, gt=0)
    """Half-width of the ratio's trust region."""
    value_coef: float = Field(0.1, ge=0)
    """Weight of the value loss (gae only)."""
    kl_coef: float = Field(0.05, ge=0)
    """Weight of the KL to the anchor in the loss."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""


class AnchorConfig(Section):
    """When the anchor follows, and when the policy returns to it."""

    kind: Literal["adaptive", "fixed", "previous", "none"] = "adaptive"
    """adaptive: APPO; fixed: the first policy for ever; previous: the policy before each step;
    none: no KL at all."""
    update_period: int = Field(5, ge=1)
    """Decide after every so many steps."""
    update_threshold: float = Field(0.02, ge=0)
    """The anchor follows where the policy's validation score leads by more than this (0-1)."""
    rollback_threshold: float = Field(0.1, ge=0)
    """The policy returns where it trails by more than this (0-1)."""
    prompts_per_decision: int = Field(4, ge=2)
    """Prompts written by each of the two, on common random numbers."""
    certainty: float = Field(1.0, ge=0)
    """So many standard errors must lie between the lead and its threshold; 0: none, as in the
    paper."""
    max_examples: int | None = Field(16, ge=1)
    """Validation examples of one decision, at most; null takes the whole split, as in the paper."""
    rounds: int = Field(2, ge=1)
    """Looks at them: at a part first, twice as much each time. 1: all at once, as in the paper."""


class PerInputConfig(Section):
    """Prompts that are written for each input (test-time editing), instead of one for all."""

    mode: Literal["never", "always", "auto"] = "never"
    """always: a writer is shipped; auto: only where validation says that it pays."""
    prompts: int = Field(4, ge=2)
    """Prompts written for each input of a step; ppo.prompts_per_step / prompts inputs."""
    certainty: float = Field(1.0, ge=0)
    """auto: so many standard errors must the lead on validation be worth."""

    @property
    def wanted(self) -> bool:
        """Whether a writer is trained at all."""
        return self.mode != "never"


class MonitorConfig(Section):
    """What is watched in every run; formulas and thresholds are in docs/metrics.md."""

    act: bool = True
    """Answer what is found: roll back, raise the KL coefficient, lower the learning rate. False
    only says it."""
    min_entropy_share: float = Field(0.2, ge=0)
    """collapse: entropy below this share of the first step's."""
    min_unique_share: float = Field(0.3, ge=0, le=1)
    """collapse: share of different prompts in a step below this."""
    max_refused_share: float = Field(0.8, ge=0, le=1)
    """collapse: share of refused prompts above this."""
    max_step_kl: float = Field(0.3, gt=0)
    """divergence: KL of one update above this, nats per token."""
    max_clip_fraction: float = Field(0.5, gt=0, le=1)
    """divergence: share of clipped tokens above this."""
    max_gradient_ratio: float = Field(20.0, gt=1)
    """divergence: gradient norm above so many times its median so far."""
    max_anchor_kl: float = Field(1.0, gt=0)
    """drift: KL to the anchor above this, nats per token."""
    max_surprise_rise: float = Field(1.0, gt=0)
    """drift: mean surprise of a step's prompts above the first step's by more than this."""
    max_drop: float = Field(0.2, gt=0)
    """forgetting: mean level of the last three steps below the best three's by more than this."""
    max_broken_steps: int = Field(3, ge=1)
    """broken_numbers: so many steps in a row with a number that is not finite end the run; steps
    without a gradient neither count nor come between."""
    max_refused_steps: int | None = Field(10, ge=1)
    """So many steps in a row whose prompts were all refused end the training, whatever ``act`` is:
    they ask next to nothing of the target, so that no budget would end it. Of what was found before
    one is chosen. null: never."""


class GuardConfig(Section):
    """Which candidates are refused; each refusal is counted."""

    reject_truncated: bool = True
    """Refuse prompts cut at the length cap."""
    reject_copies: bool = True
    """Refuse verbatim copies of examples."""
    reject_leaks: bool = True
    """Refuse prompts that state an answer, as in "The answer is B."."""
    max_surprise: float | None = 1.5
    """Refuse prompts that are odder language than this, in standard deviations above plain
    instructions of the same length, and odder than the seed prompt; null switches the check off."""
    require_instruction: bool = True
    """Refuse texts that ask for nothing (English only; off where the seed prompt does not look
    like an instruction itself)."""


class SelectionConfig(Section):
    """How the final prompt is chosen."""

    num_finalists: int = Field(16, ge=1)
    """Best prompts by rating that are compared on the validation split."""
    rounds: int = Field(3, ge=1)
    """Looks at the validation split: all finalists on a part of it, the better half on twice as
    much, and so on. 1: all of them on all of it."""
    num_demonstrations: int = Field(0, ge=0)
    """Training examples that are written into the chosen prompt, if that is better on validation;
    0 leaves it as it is."""
    demonstration_sets: int = Field(8, ge=1)
    """So many random sets of demonstrations are tried on validation."""
    learning_curve: bool = False
    """When the result stands, also score on validation what led after each step: ``curve.json``."""
    paper_protocol: bool = False
    """Also score the five prompts with the best ratings on test and report the highest of them, as
    the paper does. For comparisons with printed figures: it is optimistic, and chooses nothing."""


class TuneConfig(Section):
    """Everything a run depends on besides the data."""

    method: str = "appo"
    """One of METHODS: settings of one loop, by name."""
    steps: int = Field(10, ge=0)
    """One rollout and one update each; the most where there is a budget."""
    budget: int | None = Field(None, ge=1)
    """Target calls that training, anchor decisions and selection may cost together. The loop ends
    where no further step can be paid for beside the selection, and the selection compares as many
    prompts as can be paid for. The final reading of test is not among them. null: no limit."""
    seed: int = Field(0, ge=0)
    """Everything random follows from it."""
    split_seed: int = Field(0, ge=0)
    """Decides which example goes to which split, where the data has no split column; apart from
    ``seed``, so that runs with different seeds are tested on the same examples."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    dtype: Dtype = "auto"
    """Of the frozen weights; auto is bfloat16 where the hardware multiplies it faster."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """How attention is computed; auto leaves it to transformers, which takes PyTorch's own (sdpa).
    flash_attention_2 needs a CUDA device, bfloat16 or float16, and the package flash-attn."""
    compile: bool = False
    """Compile the models with torch.compile, for long runs on a GPU: at first every use of a model
    (as policy, anchor, target; with gradient or without) is compiled, each for minutes, on a CPU
    for far longer. Needs a C++ compiler, on a GPU a C compiler and triton."""
    quantize: Quantisation = "none"
    """4bit holds the frozen weights of the linear layers in 4 bits (NF4, as QLoRA does), but for
    the output layer, and computes in dtype; the adapters stay in float32. Needs bitsandbytes."""
    keep_checkpoints: int = Field(2, ge=2)
    """Older ones are deleted. At least two: where the last is damaged, the one before is used."""
    agent: AgentConfig = AgentConfig()
    target: TargetConfig = TargetConfig()
    limits: LimitsConfig = LimitsConfig()
    judge: JudgeConfig = JudgeConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    anchor: AnchorConfig = AnchorConfig()
    per_input: PerInputConfig = PerInputConfig()
    monitor: MonitorConfig = MonitorConfig()
    guards: GuardConfig = GuardConfig()
    selection: SelectionConfig = SelectionConfig()

    @property
    def examples_per_step(self) -> int:
        """Training examples that a step scores prompts on: for all inputs, or one by one."""
        if self.per_input.wanted:
            return self.ppo.prompts_per_step // self.per_input.prompts
        return self.reward.examples_per_step

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is unknown; use one of {', '.join(METHODS)}")
        learning = METHODS[self.method]["ppo"]["learning"]
        if self.ppo.learning != learning:
            raise ValueError(
                f"method {self.method!r} means ppo.learning {learning}, found "
                f"{self.ppo.learning}; choose another method"
            )
        if self.per_input.wanted and self.ppo.prompts_per_step % self.per_input.prompts:
            raise ValueError("ppo.prompts_per_step must be a multiple of per_input.prompts")
        if self.per_input.wanted and self.agent.shown_prompt == "leader":
            raise ValueError("per_input shows the seed prompt; leave agent.shown_prompt out")
        return self


def make_config(*layers: dict[str, Any], preset: str = "default") -> TuneConfig:
    """A configuration from a preset, a method and layers of settings, later over earlier.

    Raises:
        ConfigError: an unknown preset, an unknown key, or a value out of range.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r} is unknown; use one of {', '.join(PRESETS)}")
    given = merge(*layers)
    method = METHODS.get(str(given.get("method", Method.APPO)), {})
    try:
        return TuneConfig.model_validate(merge(PRESETS[preset], method, given))
    except ValidationError as error:
        raise ConfigError(explain(error, TuneConfig)) from error
