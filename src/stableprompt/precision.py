"""Does a target in fewer bits still give the answers of the full weights? Looked at before use.

Below 16 bits a model can lose what it knows without a sign (docs/performance.md). So its labels on
some training examples are compared with those of the same checkpoint in float32.
"""

from typing import Any, Final

from stableprompt.config import TuneConfig
from stableprompt.errors import ModelError
from stableprompt.models.hardware import options_of
from stableprompt.models.loading import load_model
from stableprompt.models.targets.interface import TargetLLM
from stableprompt.models.targets.local import LocalTarget
from stableprompt.models.targets.ray_actors import RayTarget
from stableprompt.tasks.example import TaskKind
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import template_of

NUM_COMPARED: Final = 100
ENOUGH: Final = 0.99


def label_agreement(task: Task, config: TuneConfig, target: TargetLLM) -> dict[str, Any]:
    """How far a target in 4 bits agrees with the full weights; {} where there is nothing to ask.

    Both answer the seed prompt on the same training examples. The full weights are loaded beside
    it for that long; ``target.check_labels=false`` leaves it out.

    Raises:
        ModelError: they agree on less than 99 % of the examples.
    """
    options = options_of(config, config.target)
    in_doubt = isinstance(target, LocalTarget | RayTarget) and options.get("quantize") == "4bit"
    if not in_doubt or task.kind is TaskKind.GENERATION or not config.target.check_labels:
        return {}
    chat = config.target.format == "chat"
    options["quantize"], options["dtype"] = "none", "float32"
    full = load_model(config.target.model, chat=chat, **options)
    reference = LocalTarget(full, max_batch_tokens=config.target.max_batch_tokens, plain=not chat)
    examples = task.train[:NUM_COMPARED]
    template = template_of(config.target)
    asked = [template.messages(task.seed_prompt, example) for example in examples]
    words = [task.answer_words(example) for example in examples]
    ours, theirs = (
        one.label_scores(asked, words).label_probs.argmax(dim=1) for one in (target, reference)
    )
    share = (ours == theirs).double().mean().item()
    if share < ENOUGH:
        raise ModelError(
            f"in 4 bits the target gives the labels of the full weights on {share:.0%} of "
            f"{len(examples)} examples only, and 99 % are asked for: a prompt tuned on it would be "
            "tuned for another model; use --set target.quantize=none, or "
            "--set target.check_labels=false to go on all the same"
        )
    return {"label_agreement": {"share": share, "n": len(examples)}}
