"""Run folders made of plain JSON: no model, no run."""

import json
import random
from pathlib import Path
from typing import Any

LABELS = ("delivery", "payment", "account")
SEED_PROMPT = "Which team answers this?"
BEST_PROMPT = "Which team should handle this message?"
WORDS = ("name", "the", "team", "that", "answers", "which", "label", "parcel", "refund", "briefly")


def examples(count: int) -> list[dict[str, str]]:
    return [{"text": f"message {i}", "label": LABELS[i % 3]} for i in range(count)]


def task(tests: int = 12) -> dict[str, Any]:
    return {
        "name": "tickets",
        "kind": "classification",
        "metric": "accuracy",
        "seed_prompt": SEED_PROMPT,
        "label_words": {label: label for label in LABELS},
        "notes": [],
        "train": examples(30),
        "validation": examples(9),
        "test": examples(tests),
    }


def step(number: int, **more: Any) -> dict[str, Any]:
    plain = {
        "step": number,
        "mean_reward": 0.1 * number,
        "best_reward": 0.5 + 0.1 * number,
        "seed_reward": 0.2,
        "mean_score": 0.5,
        "faults": {"copy": 1},
        "update": {"anchor_kl": 0.01 * number, "step_kl": 0.02, "entropy": 2.0 - 0.1 * number},
        "monitor": {"readings": {"gain": 0.1, "unique_share": 1.0}, "alarms": [], "actions": []},
        "anchor": None,
        "best_prompt": BEST_PROMPT,
        "target_calls": 40 * (number + 1),
        "seconds": 1.5,
    }
    return plain | more


def decision(kind: str) -> dict[str, Any]:
    return {"decision": kind, "policy_score": 0.6, "anchor_score": 0.4, "error": 0.1, "n": 9}


def written(number: int, prompt: str, **more: Any) -> dict[str, Any]:
    plain = {
        "step": number,
        "writer": "policy",
        "scored_on": "training",
        "prompt": prompt,
        "fault": None,
        "reward": 0.7,
        "score": 0.75,
        "softmax_difference": 0.1,
        "seed_reward": 0.2,
        "surprise": -0.4,
        "num_words": len(prompt.split()),
    }
    return plain | more


def estimate(score: float, n: int = 12) -> dict[str, Any]:
    low, high = max(0.0, score - 0.2), min(1.0, score + 0.2)
    return {"score": score, "low": low, "high": high, "n": n, "metric": "accuracy"}


def result(**more: Any) -> dict[str, Any]:
    plain = {
        "prompt": BEST_PROMPT,
        "instruction": BEST_PROMPT,
        "seed_prompt": SEED_PROMPT,
        "method": "appo",
        "seed": 0,
        "test": estimate(0.75),
        "seed_test": estimate(0.5),
        "paired": {"difference": 0.25, "low": 0.0, "high": 0.5, "p_value": 0.25, "n": 12},
        "validation": estimate(0.8, 9),
        "seed_validation": estimate(0.6, 9),
        "trivial_score": 0.34,
        "improved": True,
        "target_calls": 200,
        "cost": {"target_calls": {"training": 120, "test": 80}, "dollars": 0.5},
        "messages": [{"role": "user", "content": f"{BEST_PROMPT}\n\n{{text}}"}],
        "setting": {"agent": "small", "target": "large"},
    }
    return plain | more


def answers(prompt: str, right: list[bool]) -> dict[str, Any]:
    labels = [example["label"] for example in examples(len(right))]
    other = {"delivery": "payment", "payment": "account", "account": ""}
    given = [label if good else other[label] for label, good in zip(labels, right, strict=True)]
    values = [float(good) for good in right]
    return {"prompt": prompt, "values": values, "predictions": given, "left_out": []}


# Of twelve: four are fixed, one is broken, two stay wrong, five stay right.
SEED_RIGHT = [False] * 4 + [True] + [False] * 2 + [True] * 5
BEST_RIGHT = [True] * 4 + [False] + [False] * 2 + [True] * 5


def finished(folder: Path, **parts: Any) -> Path:
    """A finished run; ``parts`` replace the contents of single files."""
    steps = [step(n) for n in range(6)]
    steps[2]["anchor"] = decision("update")
    steps[4]["anchor"] = decision("roll_back")
    steps[5]["monitor"]["alarms"] = ["drift"]
    contents: dict[str, Any] = {
        "config": {"method": "appo", "steps": 6, "seed": 0, "reward": {"examples_per_step": 4}},
        "task": task(),
        "steps": steps,
        "prompts": [
            written(0, BEST_PROMPT),
            written(1, "Name the team.", reward=0.4, score=0.5),
            written(2, "Say it.", fault="no_instruction", reward=-0.5, score=None),
        ],
        "test": {"prompts": [answers(SEED_PROMPT, SEED_RIGHT), answers(BEST_PROMPT, BEST_RIGHT)]},
        "curve": {"points": [[0, 0.6], [40, 0.7], [240, 0.8]]},
        "timing": {"seconds": 75.0},
        "result": result(),
    }
    return put(folder, **(contents | parts))


def unfinished(folder: Path, **parts: Any) -> Path:
    return finished(folder, **{"result": None, "test": None, "curve": None, "timing": None} | parts)


def put(folder: Path, **contents: Any) -> Path:
    """Write what is given under the names of a run folder: lists as lines, None not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if content is None:
            continue
        if isinstance(content, list):
            lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in content)
            (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        else:
            text = json.dumps(content, ensure_ascii=False)
            (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def with_many_prompts(folder: Path, count: int, per_step: int = 50) -> Path:
    """A run that has written this many different prompts."""
    rng = random.Random(0)
    prompts = [
        written(
            i // per_step,
            f"{' '.join(rng.choices(WORDS, k=25))} {i}",
            reward=round(rng.random(), 4),
            score=round(rng.random(), 4),
        )
        for i in range(count)
    ]
    return finished(folder, prompts=prompts, steps=[step(n) for n in range(count // per_step)])
