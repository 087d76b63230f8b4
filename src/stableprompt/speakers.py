"""Agent and target: which checkpoints, how they are held, and what the policy starts from."""

import os
from collections.abc import Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from peft import LoraConfig

from stableprompt.config import TuneConfig
from stableprompt.errors import ConfigError, ModelError
from stableprompt.llm_config import ApiConfig, RayConfig, TargetConfig
from stableprompt.models.adapters import AdaptedModel, read_lora_config
from stableprompt.models.agent import AgentLLM
from stableprompt.models.embedded import EMBEDDED_NAME
from stableprompt.models.hardware import options_of, pick_device, pick_hardware
from stableprompt.models.loading import load_model, resolve_name
from stableprompt.models.ranks import ALONE, Ranks
from stableprompt.models.split import split_weights
from stableprompt.models.targets.answer_cache import AnswerCache
from stableprompt.models.targets.api import ApiTarget
from stableprompt.models.targets.function import FunctionTarget, TargetFunction
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.models.targets.local import LocalTarget
from stableprompt.models.targets.masked import MaskedTarget
from stableprompt.models.targets.masked_loading import is_masked, load_masked
from stableprompt.models.targets.providers import (
    FUNCTION_PREFIX,
    PROVIDERS,
    is_api,
    target_price,
)
from stableprompt.models.targets.ray_actors import RayTarget
from stableprompt.models.targets.ray_cluster import require_ray
from stableprompt.models.targets.servers import CONCURRENCY
from stableprompt.runs.folder import WRITER
from stableprompt.scoring.ledger import Price
from stableprompt.tuning.randomness import derive_seed


def load_models(
    config: TuneConfig, function: TargetFunction | None = None, ranks: Ranks = ALONE
) -> tuple[AgentLLM, TargetLLM]:
    """Agent and target; one copy of the weights where they are the same checkpoint, held alike.

    Args:
        config: Names them.
        function: The target, where it is a function.
        ranks: The processes of the run, which may hold the agent's weights together.

    Raises:
        ConfigError: this machine cannot do what the settings ask for; nothing was loaded.
        ModelError: a model cannot be loaded.
        TargetError: a server cannot be reached, or refuses.
    """
    elsewhere = open_target(config, function=function)  # first: it fails in less time
    for_agent, for_target = options_of(config), options_of(config, config.target)
    alike = pick_hardware(**for_agent) == pick_hardware(**for_target)
    try:
        agent = load_agent(config, ranks)
    except BaseException:
        if elsewhere is not None:
            elsewhere.close()
        raise
    if elsewhere is not None:
        return agent, elsewhere
    here = config.target.ray is None
    if here and alike and resolve_name(config.target.model) == resolve_name(config.agent.model):
        return agent, target_of(agent, config)
    return agent, load_target(config)


def load_agent(config: TuneConfig, ranks: Ranks = ALONE) -> AgentLLM:
    """The agent alone, with the adapter that it starts from.

    Raises:
        ConfigError: this machine cannot do what the settings ask for; nothing was loaded.
        ModelError: it cannot be loaded.
    """
    model = config.agent.model
    try:
        loaded = load_model(model, moved=not ranks.split, **options_of(config))
    except ModelError as error:
        if model.partition("/")[0] not in PROVIDERS or os.path.isdir(os.path.expanduser(model)):
            raise
        raise ModelError(
            f"{error}; behind an API can only be a target: the agent is trained, so its weights "
            "must be here"
        ) from error
    lora, adapter = _starting_adapter(config)
    adapted = AdaptedModel(loaded.model, lora, seed=derive_seed(config.seed, "lora"))
    if adapter is not None:
        adapted.load_adapter(adapter)
    if ranks.split:
        split_weights(loaded, adapted, ranks)
    return AgentLLM(loaded, adapted, temperature=config.agent.temperature)


def named_target(
    target: str | TargetFunction | Mapping[str, Any] | None,
) -> tuple[dict[str, Any], TargetFunction | None]:
    """Settings of a target as the user gave it, and the function, if it is one."""
    if target is None:
        return {}, None
    given = dict(target) if isinstance(target, Mapping) else {"model": target}
    function = given.get("model")
    if not callable(function):
        return given, None
    name = str(getattr(function, "__name__", type(function).__name__))
    return {**given, "model": f"{FUNCTION_PREFIX}{name}"}, function


def other_judge(config: TuneConfig) -> str | None:
    """The model that rates; None where it is the target itself, asked at the same place.

    Raises:
        ConfigError: the judge is to be asked behind an API, and is not there.
    """
    judge, target = config.judge, config.target
    model = judge.model or target.model
    if judge.api is not None and not is_api(_in_role(config, model), model):
        raise ConfigError(
            f"judge.api says how a judge behind an API is asked, and {model!r} is none; name "
            "another one with judge.model, or leave judge.api out"
        )
    same = model == target.model and judge.api in (None, target.api)
    return None if same else model


def judge_price(config: TuneConfig) -> Price | None:
    """Of the judge, which may be the target; None: nobody knows."""
    model = other_judge(config)
    if model is None:
        return target_price(config.target)
    return target_price(_in_role(config, model), model)


def require_price(config: TuneConfig) -> None:
    """Check that a limit in dollars can be kept.

    Raises:
        ConfigError: nobody knows what the target costs, or the judge.
    """
    judge = other_judge(config)
    if config.limits.max_cost is None:
        return
    for table, model, price in (
        ("target.api", config.target.model, target_price(config.target)),
        ("judge.api", judge, judge_price(config)),
    ):
        if price is None:
            raise ConfigError(
                f"limits.max_cost needs to know what {model} costs, and the price table does not; "
                f"give --set {table}.price_read=... and {table}.price_written=... in dollars for a "
                "million tokens"
            )


def answers_elsewhere(
    config: TuneConfig, model: str | None = None, *, function: TargetFunction | None = None
) -> bool:
    """Whether the target is outside this process: behind an API, or a function. It is not asked.

    Args:
        config: Names it, and says how it is asked.
        model: Another one in its role, such as a judge.
        function: The target, where it is a function.

    Raises:
        ConfigError: the name stands for a function, and it was not given; or the target does not
            speak as the settings want it, or cannot be held by Ray actors.
    """
    target = _in_role(config, model)
    elsewhere = target.model.startswith(FUNCTION_PREFIX) or is_api(target)
    if model is None and target.ray is not None and elsewhere:
        raise ConfigError(
            f"Ray actors hold a checkpoint, and the target {target.model!r} is asked elsewhere; "
            "leave --target-engine and target.ray out"
        )
    if model is None and target.model.startswith(FUNCTION_PREFIX):
        if function is None:
            raise ConfigError(
                f"the target {target.model!r} is a function of your own; give it again, as "
                "target=... in Python or --target MODULE:FUNCTION"
            )
        return True
    if is_api(target, model) and target.format == "plain" and model is None:
        raise ConfigError("a target behind an API is spoken to as a chat; leave target.format out")
    return is_api(target, model)


def open_target(
    config: TuneConfig, model: str | None = None, *, function: TargetFunction | None = None
) -> TargetLLM | None:
    """The target outside this process; None where it is a checkpoint to load.

    Args:
        config: Names it, and says how it is asked.
        model: Another one in its role, such as a judge.
        function: The target, where it is a function.

    Raises:
        ConfigError: the name stands for a function, and it was not given; or there is no key, or
            no package ray for actors.
        TargetError: a server cannot be reached, or refuses.
    """
    if not answers_elsewhere(config, model, function=function):
        if model is None and config.target.ray is not None:
            require_ray()  # before anything is loaded
        return None
    target = _in_role(config, model)
    if function is not None and model is None:
        name = target.model.removeprefix(FUNCTION_PREFIX)
        return FunctionTarget(function, target.api, name=name)
    return ApiTarget(target, AnswerCache.of_user(wanted=target.api.cache), model=model)


def _in_role(config: TuneConfig, model: str | None) -> TargetConfig:
    """The settings of the target, or of a judge that may be asked in another way."""
    if model is None:
        return config.target
    # Asked like the target, but the prices given are those of the target.
    like = config.target.api.model_copy(update={"price_read": None, "price_written": None})
    return config.target.model_copy(update={"api": config.judge.api or like})


def share_of_calls(config: TuneConfig, count: int) -> TuneConfig:
    """The settings for one of several processes: all together keep the pace that was asked for.

    Args:
        config: Of the run.
        count: Processes. Each has one call under way at least.
    """
    if count == 1:
        return config

    def share(api: ApiConfig, usual: int | None) -> ApiConfig:
        at_once, pace = api.concurrency or usual, api.requests_per_minute
        divided = {
            "concurrency": at_once and max(1, at_once // count),
            "requests_per_minute": pace and pace / count,
        }
        return api.model_copy(update=divided)

    target, judge = config.target, config.judge
    usual = None if target.model.startswith(FUNCTION_PREFIX) else CONCURRENCY
    own = target.model_copy(update={"api": share(target.api, usual)})
    if judge.api is not None:
        judge = judge.model_copy(update={"api": share(judge.api, CONCURRENCY)})
    return config.model_copy(update={"target": own, "judge": judge})


def target_of(agent: AgentLLM, config: TuneConfig) -> LocalTarget:
    """The agent's own checkpoint, adapters off, as a target."""
    return LocalTarget(
        agent.loaded,
        speaking=agent.as_base,
        max_batch_tokens=config.target.max_batch_tokens,
        plain=config.target.format == "plain",
    )


def load_target(
    config: TuneConfig, model: str | None = None, *, function: TargetFunction | None = None
) -> TargetLLM:
    """The target with weights of its own, or outside; or another model in its role, as a chat."""
    elsewhere = open_target(config, model, function=function)
    if elsewhere is not None:
        return elsewhere
    if model is None and config.target.ray is not None:
        return _in_actors(config, config.target.ray)
    return _load_here(config, model)


def _in_actors(config: TuneConfig, ray: RayConfig) -> RayTarget:
    """The target in actors, each of which loads it as this process would."""
    gpus = ray.gpus
    if gpus is None:
        gpus = float(pick_device(config.device).type == "cuda")
    name = config.target.model
    if os.path.isdir(folder := os.path.expanduser(name)):  # actors work in another folder
        name = os.path.abspath(folder)
    target = config.target.model_copy(update={"model": name})
    # Ray shows an actor its own GPUs alone.
    device = "cuda" if gpus else "cpu"
    own = config.model_copy(update={"target": target, "device": device})
    return RayTarget(partial(_load_here, own), ray.model_copy(update={"gpus": gpus}))


def _load_here(config: TuneConfig, model: str | None = None) -> LocalTarget | MaskedTarget:
    """The target, or another model in its role, in this process."""
    chat = model is not None or config.target.format == "chat"
    options = options_of(config, config.target)
    if is_masked(model or config.target.model):
        return _masked(config, model, chat=chat)
    loaded = load_model(model or config.target.model, chat=chat, **options)
    return LocalTarget(loaded, max_batch_tokens=config.target.max_batch_tokens, plain=not chat)


def _masked(config: TuneConfig, model: str | None, *, chat: bool) -> MaskedTarget:
    """A masked LM, which reads raw texts and answers with one word."""
    name = model or config.target.model
    if chat:
        raise ConfigError(
            f"{name!r} is a masked LM, which reads raw texts and cannot chat or judge; use --set "
            "target.format=plain"
        )
    loaded = load_masked(name, **options_of(config, config.target))
    return MaskedTarget(loaded, max_batch_tokens=config.target.max_batch_tokens)


def _starting_adapter(config: TuneConfig) -> tuple[LoraConfig, Path | None]:
    """The LoRA configuration and, where the policy does not start fresh, its weights."""
    folder = adapter_folder(config)
    if folder is None:
        fresh = LoraConfig(
            r=config.agent.lora_rank,
            lora_alpha=config.agent.lora_alpha,
            target_modules="all-linear",
        )
        return fresh, None
    return read_lora_config(folder), folder


def adapter_folder(config: TuneConfig) -> Path | None:
    """Where the adapter that the policy starts from is; None: it starts fresh."""
    chosen = config.agent.adapter
    if chosen == "auto":
        chosen = str(bundled_writer()) if config.agent.model == EMBEDDED_NAME else "none"
    if chosen == "none":
        return None
    folder = Path(os.path.expanduser(chosen))
    # Of a run that made one; os.path, not pathlib: it answers False for a name that cannot exist.
    return folder / WRITER if os.path.isdir(folder / WRITER) else folder


def bundled_writer() -> Path:
    """The warm-started writer for the embedded model, shipped with the package."""
    return Path(str(resources.files("stableprompt.models") / "writers" / EMBEDDED_NAME))
