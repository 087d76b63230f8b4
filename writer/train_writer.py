"""Train the bundled writer: a LoRA adapter that turns demonstrations into an instruction.

    python writer/train_writer.py --tasks writer/tasks.jsonl --out FOLDER

Supervised learning on ``tasks.jsonl``: for each task, the meta-prompt "improve" with a few of its
examples, and as answers its instructions (long and short ones). The query is run once for all
answers of a task, as in the PPO update. ``MODEL_CARD.md`` beside the adapter says what came out.
"""

import argparse
import json
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from stableprompt.models.adapters import AdaptedModel
from stableprompt.models.agent import AgentLLM
from stableprompt.models.loading import load_model
from stableprompt.models.prefix import right_pad
from stableprompt.tasks.example import Example
from stableprompt.tasks.meta_prompts import MetaPrompt

GENERIC_SEEDS = ("Classify the text.", "Answer.", "Do the task.", "Label the input.")


def load_tasks(path: Path) -> list[dict]:
    """One task a line: task, labels or null, seed, instructions, short, examples."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def query_messages(task: dict, rng: random.Random) -> list[dict[str, str]]:
    """The meta-prompt of a task, with a random choice of examples and current instruction."""
    shown = rng.sample(task["examples"], rng.randint(4, 6))
    examples = [Example(row["input"], str(row["output"])) for row in shown]
    labels = list(task["labels"] or ["a short text"])
    rng.shuffle(labels)
    listed = f"Answer with one of: {', '.join(labels)}."
    seed = rng.choice([task["seed"], *GENERIC_SEEDS])
    if task["labels"] and rng.random() < 0.5:  # many users list the labels and nothing else
        seed = f"{seed} {listed}"
    return MetaPrompt("improve").messages(seed, labels, examples)


def loss_of(agent: AgentLLM, task: dict, answers: list[str], rng: random.Random) -> torch.Tensor:
    """Mean negative log-likelihood per token of the answers, with gradient."""
    query_ids = agent.query_ids(query_messages(task, rng))
    end = agent.tokenizer.eos_token_id
    rows = [agent.tokenizer(a, add_special_tokens=False)["input_ids"] + [end] for a in answers]
    ids, mask = right_pad(rows, agent.tokenizer.pad_token_id, query_ids.device)
    evaluation = agent(query_ids, ids, mask.bool())
    return -evaluation.logprobs.sum() / mask.sum()


def main() -> None:
    """Train, and report the held-out loss after each epoch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=Path, default=Path(__file__).with_name("tasks.jsonl"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--tasks-per-update", type=int, default=2)
    parser.add_argument("--held-out", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    loaded = load_model(options.model)
    agent = AgentLLM(loaded, AdaptedModel(loaded.model, lora, seed=options.seed), temperature=1.0)
    tasks = load_tasks(options.tasks)
    rng.shuffle(tasks)
    held_out, training = tasks[: options.held_out], tasks[options.held_out :]
    optimizer = torch.optim.AdamW(agent.adapted.parameters(), lr=options.learning_rate)
    updates = options.epochs * len(training) // options.tasks_per_update
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=updates + 1, pct_start=0.1
    )
    started = time.time()
    for epoch in range(options.epochs):
        rng.shuffle(training)
        for number, task in enumerate(training, start=1):
            answers = [*rng.sample(task["instructions"], 3), *task["short"]]
            (loss_of(agent, task, answers, rng) / options.tasks_per_update).backward()
            if number % options.tasks_per_update == 0:
                torch.nn.utils.clip_grad_norm_(agent.adapted.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                if schedule.last_epoch < updates:
                    schedule.step()
        check = random.Random(1)
        with torch.no_grad():
            losses = [
                float(loss_of(agent, task, [*task["instructions"], *task["short"]], check))
                for task in held_out
            ]
        print(
            f"epoch {epoch + 1}: held-out {sum(losses) / len(losses):.3f} nats/token, "
            f"{time.time() - started:.0f} s",
            flush=True,
        )
    save(agent, options.out, options.model)


def save(agent: AgentLLM, folder: Path, name: str) -> None:
    """Write adapter_model.safetensors in bfloat16 (2 MB) and adapter_config.json."""
    with TemporaryDirectory() as scratch:
        written = Path(scratch)
        agent.adapted.save_adapter(written)
        config = json.loads((written / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = name  # not where it lay on this machine
        config["target_modules"] = sorted(config["target_modules"])
        weights = load_file(written / "adapter_model.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: w.bfloat16() for n, w in weights.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
