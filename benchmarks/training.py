"""Sections that learn: the update, a whole step, its peak memory and its profile."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench import Bench
from benchmarks.measure import (
    head_parameters,
    layer_parameters,
    ratio,
    run_alone,
    summary,
)
from benchmarks.naive import needed
from benchmarks.naive_training import (
    Speaker,
    ThreeCopies,
    full_rows,
    load_three_copies,
    naive_step,
    unshared_update,
)
from benchmarks.session import Session, replay_of, require_read
from benchmarks.workload import answer_ids, plain_ids
from stableprompt.models.adapters import Role
from stableprompt.models.loading import resolve_name
from stableprompt.ppo.rollout import Rollout
from stableprompt.tuning.candidates import Candidate

SAME = 5e-4  # nats: float32 sums in another order, through all layers
PEAK = Path(__file__).parent / "peak.py"


class Training:
    """The sections that share one agent, and the prompts that it writes."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._session: Session | None = None
        self._written: tuple[Rollout, list[Candidate]] | None = None

    @property
    def session(self) -> Session:
        """Loaded when it is first needed."""
        if self._session is None:
            self._session = Session.load(self._bench.workload)
        return self._session

    @property
    def written(self) -> tuple[Rollout, list[Candidate]]:
        """A real rollout, collected once."""
        if self._written is None:
            self._bench.say("collecting a rollout")
            self.session.renew()
            self._written = self.session.collect()
            rollout, candidates = self._written
            lengths = rollout.mask.sum(dim=1).tolist()
            self._bench.results["rollout"] = {
                "query_tokens": len(rollout.query_ids),
                "response_tokens": summary(lengths),
                "demonstrations": self._bench.workload.config.agent.num_demonstrations,
                "prompts": len(candidates),
                "prompts_scored": sum(c.fault is None for c in candidates),
                "prompts_that_differ": len({c.prompt for c in candidates if c.fault is None}),
            }
        return self._written

    # --- the update ---

    def update(self) -> None:
        """Rollouts with a meta-prompt each, against ours; one PPO epoch, same losses."""
        bench, session = self._bench, self.session
        rollout, _ = self.written
        config = bench.workload.config.ppo.model_copy(update={"ppo_epochs": 1})
        agent = session.agent
        session.renew()
        speaker = Speaker(agent.model, agent.value_heads[Role.POLICY], agent.temperature)
        with torch.no_grad():
            logprobs, values = full_rows(
                speaker, rollout.query_ids, rollout.response_ids, rollout.mask
            )
        allowed = SAME if bench.dtype == torch.float32 else 0.5
        bench.check("log-probabilities", _gap(logprobs, rollout.old_logprobs), allowed)
        bench.check("values", _gap(values, rollout.old_values), allowed)
        del logprobs, values

        def unshared() -> Callable[[], list[float]]:
            session.renew()
            optimizer = session.trainable.optimizer
            return lambda: unshared_update(speaker, optimizer, rollout, config, seed=0)

        def ours() -> Callable[[], float]:
            session.renew()
            return lambda: session.update(rollout, ppo_epochs=1).policy_loss

        timings = bench.rounds_of("update", {"unshared": unshared, "ours": ours})
        bench.ratio(
            "update_vs_unshared",
            timings.seconds["unshared"],
            timings.seconds["ours"],
            f"one PPO epoch over {len(rollout.rewards)} prompts, {len(rollout.query_ids)} tokens "
            "of meta-prompt: a copy of it in every row / ours",
        )
        losses = timings.results["unshared"]
        gap = abs(sum(losses) / len(losses) - timings.results["ours"])
        bench.check("policy loss of the update", gap, allowed)
        self._limit(timings.seconds["unshared"])

    def _limit(self, control: list[float]) -> None:
        """The ratio at best: the meta-prompt once, real tokens alone, at the ceiling.

        Forward and backward for activations are the same work, weights of the base have no
        gradient; those of the adapter, few as they are, count three times.
        """
        bench, session = self._bench, self.session
        rollout, _ = self.written
        base = session.agent.loaded.model
        adapters = sum(p.numel() for p in session.agent.learned_parameters())
        frozen = layer_parameters(base) - 2 * adapters  # both adapters are linear layers too
        tokens = len(rollout.query_ids) + int(rollout.mask.sum()) - len(rollout.rewards)
        flops = tokens * (4 * frozen + 6 * adapters)
        flops += 4 * int(rollout.mask.sum()) * head_parameters(base)
        bench.results.setdefault("limits", {})["update_vs_unshared"] = {
            "at_best": summary(control)["median"] / (flops / bench.ceiling()),
            "necessary_gflop": flops / 1e9,
            "ceiling_gflops": bench.ceiling() / 1e9,
        }

    # --- a whole step ---

    def step(self) -> None:
        """The same loop of standard parts with three copies of the weights, against ours."""
        bench, session = self._bench, self.session
        rollout, candidates = self.written
        with tempfile.TemporaryDirectory() as folder:
            copies = self._three_copies(session.save_adapters(Path(folder)))
        # The value head is no part of an adapter's files.
        copies.policy.head.load_state_dict(session.agent.value_heads[Role.POLICY].state_dict())
        start = [p.detach().clone() for p in copies.policy.learned()]
        laps = Laps()

        def naive() -> Callable[[], Rollout]:
            with torch.no_grad():
                for parameter, value in zip(copies.policy.learned(), start, strict=True):
                    parameter.copy_(value)
            rate = bench.workload.config.ppo.learning_rate
            optimizer = torch.optim.AdamW(copies.policy.learned(), lr=rate, weight_decay=0.0)
            replay = replay_of(rollout, candidates)
            laps.restart()
            return lambda: naive_step(
                copies, optimizer, bench.workload, session.examples, replay, clock=laps.lap
            )

        def ours() -> Callable[[], tuple[Rollout, list[Candidate]]]:
            session.renew()
            return session.step

        timings = bench.rounds_of("step", {"naive": naive, "ours": ours})
        again, others = timings.results["ours"]
        require_read(session.scorer, self._least_tokens(others))
        bench.ratio(
            "step_vs_naive",
            timings.seconds["naive"],
            timings.seconds["ours"],
            "write, evaluate, score and learn: standard parts, one prompt at a time / ours (which "
            "also checks the prompts; the control does not)",
        )
        other: Rollout = timings.results["naive"]
        allowed = SAME if bench.dtype == torch.float32 else 0.5
        if not torch.equal(again.response_ids, other.response_ids):
            raise RuntimeError("the two steps wrote different prompts; they cannot be compared")
        bench.check("rewards of the step", _gap(other.rewards, again.rewards), allowed)
        gap = _gap(other.anchor_logprobs, again.anchor_logprobs)
        bench.check("anchor log-probabilities of the step", gap, allowed)
        bench.check("values of the step", _gap(other.old_values, again.old_values), allowed)
        bench.results["profile_naive"] = laps.seconds

    def _least_tokens(self, candidates: Sequence[Candidate]) -> int:
        """What the target must have read in a step."""
        workload, tokenizer = self._bench.workload, self.session.agent.tokenizer
        prompts = [workload.task.seed_prompt, *(c.prompt for c in candidates if c.fault is None)]
        blocks = workload.conversations(prompts, self.session.examples)
        contexts = plain_ids(tokenizer, [c for block in blocks for c in block])
        return needed(contexts, answer_ids(tokenizer, workload.words))[0]

    def _three_copies(self, adapters: Path) -> ThreeCopies:
        loaded = self.session.agent.loaded
        config = self._bench.workload.config
        return load_three_copies(
            resolve_name(config.agent.model),
            adapters,
            loaded.tokenizer,
            loaded.end_of_turn_ids,
            device=loaded.device,
            dtype=loaded.model.dtype,
            temperature=config.agent.temperature,
        )

    def profile(self) -> None:
        """Where the time of our step goes."""
        self._bench.say("profile")
        self._bench.results["profile"] = self.session.seconds_by_phase()

    # --- memory ---

    def memory(self) -> None:
        """Peak of one step, each in a process of its own."""
        bench, session = self._bench, self.session
        rollout, candidates = self.written
        with tempfile.TemporaryDirectory() as folder:
            request = Path(folder) / "request.json"
            adapters = session.save_adapters(Path(folder))
            request.write_text(json.dumps(self._request(rollout, candidates, adapters)))
            found: dict[str, dict[str, Any]] = {}
            for contestant in ("three_copies", "ours"):
                bench.say(f"memory: {contestant}")
                found[contestant] = run_alone(str(PEAK), contestant, str(request))
        net = {name: f["peak"] - f["before"] for name, f in found.items()}
        weights = sum(p.numel() * p.element_size() for p in bench.model().model.parameters())
        bench.note(
            "peak_memory_vs_three_copies",
            {
                **ratio([net["ours"]], [net["three_copies"]]),
                "unit": "of it",
                "what": "peak of our step / peak of the naive step with three copies of the "
                "weights, without what was there before a model was loaded",
                "raw_ratio": found["ours"]["peak"] / found["three_copies"]["peak"],
                "if_only_the_weights_were_tripled": net["ours"] / (net["ours"] + 2 * weights),
                "mib": {
                    **{
                        f"{name}_{key}": round(value / 2**20)
                        for name, figures in found.items()
                        for key, value in figures.items()
                    },
                    **{f"{name}_net": round(value / 2**20) for name, value in net.items()},
                    "weights_once": round(weights / 2**20),
                },
            },
        )

    def _request(
        self, rollout: Rollout, candidates: Sequence[Candidate], adapters: Path
    ) -> dict[str, Any]:
        replay = replay_of(rollout, candidates)
        return {
            "data_dir": str(self._bench.data_dir) if self._bench.data_dir else None,
            "workload": self._bench.request,
            "adapters": str(adapters),
            "end_ids": self.session.agent.loaded.end_of_turn_ids,
            "query_ids": replay.query_ids.tolist(),
            "responses": replay.responses.tolist(),
            "mask": replay.mask.tolist(),
            "refused": list(replay.refused),
        }


class Laps:
    """Seconds of the phases of the control's step; the last round counts."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a round."""
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """End a phase."""
        now = time.perf_counter()
        self.seconds[phase], self._last = round(now - self._last, 3), now


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().max())
