"""The figures of a run in TensorBoard: ``tensorboard --logdir RUN_DIR``."""

import argparse
from pathlib import Path

from stand_in import answer

from stableprompt import Trackers, load_bundled, tune


def main(agent: str, run_dir: Path) -> None:
    """Tune for two steps, and send each to TensorBoard."""
    task = load_bundled("support")
    with Trackers(["tensorboard"], run_dir) as trackers:
        result = tune(
            task,
            agent=agent,
            target=answer,
            run_dir=run_dir,
            observer=trackers,
            method="best-of-n",
            steps=2,
            ppo={"prompts_per_step": 4},
        )
        trackers.finish(result)
    print(f"prompt: {result.prompt}")
    print(f"figures: {run_dir / 'tensorboard'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", default="smollm2-135m")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/tracked"))
    arguments = parser.parse_args()
    main(arguments.agent, arguments.run_dir)
