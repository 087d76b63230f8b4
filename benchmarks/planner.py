"""Check the planner's cost model: fit its constants on some points, predict the others.

    python benchmarks/planner.py                                # about 10 minutes of one thread
    python benchmarks/planner.py --fit                          # from the points that are on disk
    python benchmarks/planner.py --run                          # a whole run of the embedded model
    python benchmarks/planner.py --pictures                     # the curves of docs/scaling.md

Models of random weights read, write, judge and learn through the package's own code, on one thread
of a CPU in float32. Seconds are those of the processor (``time.process_time``), not of the clock:
other work on the machine then counts for less, though it still takes memory bandwidth and cache.
"""

import argparse
import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded
sys.path.insert(0, str(Path(__file__).parent.parent))  # the same imports for scripts and tests

import torch
from peft import LoraConfig
from tests.fakes.shapes import config_of
from transformers import LlamaForCausalLM

from benchmarks.measure import machine
from benchmarks.planner_fit import fit_and_judge
from benchmarks.planner_pages import write_pages
from benchmarks.planner_run import whole_run
from benchmarks.planner_shapes import BETWEEN, FITTED, LARGER, SHAPES
from stableprompt.config import PPOConfig
from stableprompt.models.adapters import AdaptedModel, Role
from stableprompt.models.agent import AgentLLM
from stableprompt.models.likelihood import Likelihood
from stableprompt.models.loading import LoadedModel
from stableprompt.models.training import prepare_training
from stableprompt.ppo.rollout import Rollout
from stableprompt.scaling.shapes import Shape
from stableprompt.tuning.update import ppo_update

RESULTS: Final = Path(__file__).parent.parent / "docs" / "results" / "planner.json"
BATCH_TOKENS: Final = 4096
RANK: Final = 16


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement."""

    part: str
    """fitted; or held out: sizes (another amount of work), between, larger (another model)."""
    kind: str
    shape: str
    rows: int
    """Prompts."""
    query: int
    """Tokens that all rows share."""
    length: int
    """Tokens of a prompt."""
    inputs: int = 0
    """Of reading: inputs behind each prompt."""
    read: int = 0
    """Of reading: tokens that were read."""
    seconds: float = 0.0
    """Of the processor, the least of all tries."""
    tries: tuple[float, ...] = ()


def points() -> Iterator[Point]:
    """All that is measured."""
    small = (
        ("reading", 2, 12, 20, 8),
        ("reading", 4, 12, 30, 16),
        ("writing", 4, 100, 8, 0),
        ("writing", 16, 200, 16, 0),
        ("judging", 8, 150, 20, 0),
        ("learning", 8, 100, 16, 0),
        ("learning", 16, 200, 24, 0),
    )
    other = (
        ("reading", 8, 12, 60, 16),
        ("writing", 24, 300, 30, 0),
        ("judging", 24, 300, 30, 0),
        ("learning", 24, 300, 30, 0),
    )
    large = (
        ("reading", 3, 12, 25, 8),
        ("writing", 8, 120, 10, 0),
        ("judging", 8, 100, 16, 0),
        ("learning", 8, 100, 16, 0),
    )
    for part, models, sizes in (
        ("fitted", FITTED, small),
        ("sizes", FITTED[:2], other),
        ("between", BETWEEN, small[1::2] + small[4:5]),
        ("larger", LARGER, large),
    ):
        for model in models:
            for kind, rows, query, length, inputs in sizes:
                yield Point(part, kind, model.name, rows, query, length, inputs)


class Subject:
    """A model of random weights, as agent and as target."""

    def __init__(self, shape: Shape) -> None:
        own = {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2}
        config = config_of(shape, **own, pad_token_id=0)
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
        assert sum(p.numel() for p in model.parameters()) == shape.parameters
        self.random = torch.Generator().manual_seed(1)
        self.shape = shape
        self.loaded = LoadedModel(shape.name, model, _Tokens(), torch.device("cpu"))
        lora = LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear")
        self.agent = AgentLLM(self.loaded, AdaptedModel(model, lora, seed=0), temperature=0.8)
        self.trainable = prepare_training(self.agent, 1e-6)
        self.config = PPOConfig(ppo_epochs=1, minibatch_size=1000, learning_rate=1e-6)

    def ids(self, *size: int) -> torch.Tensor:
        """Random tokens, none of them special."""
        return torch.randint(8, self.shape.vocabulary, size, generator=self.random)

    def job(self, point: Point) -> Callable[[], int]:
        """What is timed; it returns how many tokens were read, where that follows from a tree."""
        return {
            "reading": self._reading,
            "writing": self._writing,
            "judging": self._judging,
            "learning": self._learning,
        }[point.kind](point)

    def _reading(self, point: Point) -> Callable[[], int]:
        head = self.ids(point.query).tolist()
        prompts = self.ids(point.rows, point.length).tolist()
        inputs = self.ids(point.inputs, 30).tolist()
        contexts = [[*head, *prompt, *own] for prompt in prompts for own in inputs]
        answers = [[[9], [10]]] * len(contexts)
        likelihood = Likelihood(self.loaded, max_batch_tokens=BATCH_TOKENS)

        def run() -> int:
            with self.agent.as_base():
                return likelihood.logprobs(contexts, answers, share=True)[1]

        return run

    def _writing(self, point: Point) -> Callable[[], int]:
        query = self.ids(point.query)
        size = (point.rows, point.length)
        uniforms = torch.rand(size, generator=self.random, dtype=torch.float64)

        def run() -> int:
            self.agent.sample(query, uniforms)
            return 0

        return run

    def _judging(self, point: Point) -> Callable[[], int]:
        query, responses = self.ids(point.query), self.ids(point.rows, point.length)
        mask = torch.ones_like(responses, dtype=torch.bool)

        def run() -> int:
            self.agent.evaluate(query, responses, mask, role=Role.POLICY)
            return 0

        return run

    def _learning(self, point: Point) -> Callable[[], int]:
        size = (point.rows, point.length)
        numbers = torch.zeros(size)
        rollout = Rollout(
            query_ids=self.ids(point.query),
            response_ids=self.ids(*size),
            mask=torch.ones(size, dtype=torch.bool),
            old_logprobs=numbers - 10,
            anchor_logprobs=numbers - 10,
            entropies=numbers,
            old_values=numbers,
            rewards=torch.arange(point.rows) / point.rows,
        )

        def run() -> int:
            ppo_update(self.trainable, rollout, self.config, seed=0)
            return 0

        return run


class _Tokens:
    """What the agent asks of a tokenizer here; nothing that is written is text."""

    pad_token_id, eos_token_id, chat_template = 0, 2, None

    def batch_decode(self, ids: torch.Tensor, **options: Any) -> list[str]:
        return [""] * len(ids)


def measure(wanted: list[Point], tries: int) -> Iterator[Point]:
    """Points with their seconds; each model is built once."""
    subject: Subject | None = None
    for point in sorted(wanted, key=lambda p: SHAPES[p.shape].linear_parameters):
        if subject is None or subject.shape.name != point.shape:
            subject = None
            gc.collect()
            subject = Subject(SHAPES[point.shape])
            # What is measured once for each model, and what is allocated at first.
            subject.job(Point("", "learning", point.shape, 2, 8, 4))()
            subject.job(Point("", "reading", point.shape, 2, 8, 8, 2))()
        job = subject.job(point)
        seconds, read = [], 0
        for _ in range(tries):
            start = time.process_time()
            read = job()
            seconds.append(time.process_time() - start)
        values = asdict(point) | {"read": read, "seconds": min(seconds), "tries": tuple(seconds)}
        yield Point(**values)


def main() -> None:
    """Measure, fit, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fit", action="store_true", help="no measurement: what is on disk")
    parser.add_argument("--pictures", action="store_true", help="the pictures and pages alone")
    parser.add_argument("--run", action="store_true", help="a whole run, beside its plan, alone")
    parser.add_argument("--tries", type=int, default=2, help="of each point; the least counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    if options.run:
        found = json.loads(RESULTS.read_text(encoding="utf-8"))
        found["run"] = whole_run()
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    elif not (options.fit or options.pictures):
        found = {"machine": machine(torch.device("cpu")), "points": []}
        for point in measure(list(points()), options.tries):
            print(
                f"{point.part:8} {point.kind:9} {point.shape:6} {point.seconds:8.2f} s", flush=True
            )
            found["points"].append(asdict(point))
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    if not (options.pictures or options.run):
        found |= fit_and_judge(found["points"], tuple(SHAPES.values()))
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_pages(found, RESULTS.parent)


if __name__ == "__main__":
    main()
