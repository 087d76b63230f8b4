"""GEPA's search on a task and a target of stableprompt, then an honest figure."""

import argparse

import gepa
from stand_in import answer

from stableprompt import evaluate, load_bundled
from stableprompt.integrations.gepa import TargetAdapter


def reflect(prompt: str) -> str:
    """Stands for the LLM that reflects; a name such as "openai/gpt-4o" would be asked."""
    return "```\nWhich team should answer this message?\n```"


def main() -> str:
    """Search with 200 scored examples, and read the test split once."""
    task = load_bundled("support", overrides={"seed_prompt": "Sort the message."})
    with TargetAdapter(task, target=answer) as adapter:
        found = gepa.optimize(
            adapter.seed_candidate,
            trainset=list(task.train),
            valset=list(task.validation)[:40],
            adapter=adapter,
            reflection_lm=reflect,
            max_metric_calls=200,
        )
    prompt = found.best_candidate["prompt"]
    print(f"prompt: {prompt}")
    print(f"test: {evaluate(task, prompt, target=answer).score:.3f}, before: ", end="")
    print(f"{evaluate(task, task.seed_prompt, target=answer).score:.3f}")
    return prompt


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
