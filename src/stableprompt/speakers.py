"""Agent and target: which checkpoints, how they are held, and what the policy starts from."""

from importlib import resources
from pathlib import Path

from peft import LoraConfig

from stableprompt.config import TuneConfig
from stableprompt.models.adapters import AdaptedModel, read_lora_config
from stableprompt.models.agent import AgentLLM
from stableprompt.models.embedded import EMBEDDED_NAME
from stableprompt.models.hardware import options_of, pick_hardware
from stableprompt.models.loading import load_model, resolve_name
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.models.targets.local import LocalTarget
from stableprompt.runs.folder import WRITER
from stableprompt.tuning.randomness import derive_seed


def load_models(config: TuneConfig) -> tuple[AgentLLM, TargetLLM]:
    """Agent and target; one copy of the weights where they are the same checkpoint, held alike.

    Raises:
        ConfigError: this machine cannot do what the settings ask for; nothing was loaded.
        ModelError: a model cannot be loaded.
    """
    for_agent, for_target = options_of(config), options_of(config, config.target)
    alike = pick_hardware(**for_agent) == pick_hardware(**for_target)
    loaded = load_model(config.agent.model, **for_agent)
    lora, adapter = _starting_adapter(config)
    adapted = AdaptedModel(loaded.model, lora, seed=derive_seed(config.seed, "lora"))
    if adapter is not None:
        adapted.load_adapter(adapter)
    agent = AgentLLM(loaded, adapted, temperature=config.agent.temperature)
    if alike and resolve_name(config.target.model) == resolve_name(config.agent.model):
        return agent, target_of(agent, config)
    return agent, load_target(config)


def target_of(agent: AgentLLM, config: TuneConfig) -> LocalTarget:
    """The agent's own checkpoint, adapters off, as a target."""
    return LocalTarget(
        agent.loaded,
        speaking=agent.as_base,
        max_batch_tokens=config.target.max_batch_tokens,
        plain=config.target.format == "plain",
    )


def load_target(config: TuneConfig, model: str | None = None) -> LocalTarget:
    """The target with weights of its own; or another model in its role, spoken to as a chat."""
    chat = model is not None or config.target.format == "chat"
    options = options_of(config, config.target)
    loaded = load_model(model or config.target.model, chat=chat, **options)
    return LocalTarget(loaded, max_batch_tokens=config.target.max_batch_tokens, plain=not chat)


def _starting_adapter(config: TuneConfig) -> tuple[LoraConfig, Path | None]:
    """The LoRA configuration and, where the policy does not start fresh, its weights."""
    chosen = config.agent.adapter
    if chosen == "auto":
        chosen = str(bundled_writer()) if config.agent.model == EMBEDDED_NAME else "none"
    if chosen == "none":
        fresh = LoraConfig(
            r=config.agent.lora_rank,
            lora_alpha=config.agent.lora_alpha,
            target_modules="all-linear",
        )
        return fresh, None
    folder = Path(chosen).expanduser()
    if (folder / WRITER).is_dir():  # of a run that made one
        folder = folder / WRITER
    return read_lora_config(folder), folder


def bundled_writer() -> Path:
    """The warm-started writer for the embedded model, shipped with the package."""
    return Path(str(resources.files("stableprompt.models") / "writers" / EMBEDDED_NAME))
