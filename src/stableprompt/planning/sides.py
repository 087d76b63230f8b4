"""Agent and target of a run on named machines: how they are held, where, and what they hold."""

from functools import cached_property
from typing import Final

from stableprompt.config import TuneConfig
from stableprompt.errors import ConfigError
from stableprompt.models.targets.providers import FUNCTION_PREFIX
from stableprompt.models.targets.servers import CONCURRENCY
from stableprompt.planning.tokens import query_tokens
from stableprompt.scaling import memory
from stableprompt.scaling.machines import Machine, MachineOrder, parse_machines
from stableprompt.scaling.memory import Memory
from stableprompt.scaling.roles import Agent, Elsewhere, InProcess, Served, Step, Target
from stableprompt.scaling.shapes import shape_named
from stableprompt.scaling.work import Held
from stableprompt.speakers import answers_elsewhere
from stableprompt.tasks.example import TaskKind
from stableprompt.tasks.task import Task

_BYTES: Final = {"auto": 2.0, "bfloat16": 2.0, "float16": 2.0, "float32": 4.0}
_FULL: Final = 4.0  # the weights that a target in 4 bits is compared with (precision.py)


class Sides:
    """Agent and target as the cost model sees them.

    Args:
        task: What is tuned for.
        config: Every setting.
        order: Where, and how large.
        context: Tokens of one call of the target.
        answer: Tokens that it writes for one.

    Raises:
        ConfigError: a machine or the size of a model is not known, or the order contradicts itself.
    """

    def __init__(
        self, task: Task, config: TuneConfig, order: MachineOrder, context: float, answer: float
    ) -> None:
        self._task, self._config, self._order = task, config, order
        self._context, self._answer = context, answer
        self.devices, self.machine = parse_machines(order.on)
        if order.split and self.devices == 1:
            raise ConfigError(
                f"the agent is to be split, and there is one device, {order.on}; say how many, as "
                f"in --on 4x{self.machine.name}, or leave --split-agent out"
            )
        if order.split and config.quantize != "none":
            raise ConfigError(
                f"quantize is {config.quantize!r}, and such weights are not split over devices; "
                "leave it out, or leave --split-agent out"
            )
        named = config.target.model.startswith(FUNCTION_PREFIX)
        self.elsewhere = order.target_on is None and (named or answers_elsewhere(config))
        if order.target_on is None and order.replicas != 1:
            raise ConfigError(
                f"{order.replicas} replicas of what? Say where one server of the target is, as in "
                "--target-on 8xh100"
            )
        agent_name = order.agent_size or config.agent.model
        target_name = order.target_size or config.target.model
        self.agent = self._held(agent_name, lora=True)
        own = config.target
        self._target_held = (
            None
            if self.elsewhere
            else self._held(target_name, dtype=own.dtype, quantize=own.quantize)
        )
        self.one_copy = (
            order.target_on is None
            and agent_name == target_name
            and own.dtype in (None, config.dtype)
            and own.quantize in (None, config.quantize)
        )

    def _held(
        self,
        name: str,
        *,
        dtype: str | None = None,
        quantize: str | None = None,
        lora: bool = False,
    ) -> Held:
        measured = self.machine.measured is not None  # a CPU's, in float32
        each = 4.0 if measured else _BYTES[dtype or self._config.dtype]
        bits = (quantize or self._config.quantize) == "4bit"
        return Held(shape_named(name), each, quantised=bits, lora=lora)

    @cached_property
    def step(self) -> Step:
        """What the agent does in one."""
        ppo = self._config.ppo
        return Step(
            rows=ppo.prompts_per_step,
            replayed=0 if self._config.per_input.wanted else ppo.replay,
            query=query_tokens(self._task, self._config),
            length=self._config.agent.max_prompt_tokens,
            minibatch=ppo.minibatch_size,
            epochs=ppo.ppo_epochs if ppo.learning else 0,
            rank=self._config.agent.lora_rank,
        )

    @cached_property
    def rows_at_once(self) -> int:
        """Rows of a part of a minibatch that fit; 0: not even one."""
        step, found = self.step, self._lasting()
        room = (self.machine.memory - memory.ASIDE) / (1 + memory.FRAGMENTED) - sum(found.values())
        rows = self._rows_learned
        if self._order.split:  # all or nothing: a batch that others are in cannot be halved
            needed = memory.learning(self.agent, rows, step.query, step.length, step.rank)
            return rows if needed <= room else 0
        return memory.rows_that_fit(self.agent, rows, step.query, step.length, step.rank, room)

    @property
    def _rows_learned(self) -> int:
        """Of a minibatch, on one device."""
        return -(-min(self.step.learned, self.step.minibatch) // self.devices)

    def agent_on(self) -> Agent:
        """The agent, to be timed."""
        return Agent(
            self.agent,
            self.machine,
            self.devices,
            self.step,
            self.rows_at_once,
            split=self._order.split,
        )

    def target_on(self) -> Target:
        """The target, to be timed."""
        api, order, held = self._config.target.api, self._order, self._target_held
        at_once = api.concurrency or CONCURRENCY
        if held is None:
            function = self._config.target.model.startswith(FUNCTION_PREFIX)
            at_once = api.concurrency or (1 if function else CONCURRENCY)
            places = max(1, len(api.base_urls))
            pace = api.requests_per_minute
            return Elsewhere(at_once * places, None if pace is None else pace * places)
        if order.target_on is None:
            tokens = self._config.target.max_batch_tokens
            split = order.split and self.one_copy
            return InProcess(held, self.machine, self.devices, tokens, split)
        devices, machine = parse_machines(order.target_on)
        return Served(held, machine, devices, order.replicas, at_once)

    def dollars_per_hour(self) -> float:
        """For all devices, by the assumed rents or the one given."""
        given, rent = self._order.dollars_per_hour, 0.0
        places = [(self.devices, self.machine)]
        if self._order.target_on is not None:
            devices, machine = parse_machines(self._order.target_on)
            places.append((devices * self._order.replicas, machine))
        for devices, machine in places:
            rent += devices * (machine.dollars_per_hour if given is None else given)
        return rent

    @property
    def target_parameters(self) -> int | None:
        """None: nobody knows."""
        return None if self._target_held is None else self._target_held.shape.parameters

    # --- memory ---

    def memory(self) -> tuple[Memory, ...]:
        """Of one device of each kind."""
        held = self._target_held
        found = [Memory(self.machine.name, self.machine.memory, self._lasting(), self._passing())]
        if held is not None and self._order.target_on is not None:
            devices, machine = parse_machines(self._order.target_on)
            found.append(self._serving(held, devices, machine))
        return tuple(found)

    def _lasting(self) -> dict[str, float]:
        learning = self._config.ppo.learning
        split = self._order.split
        found = {
            "agent": memory.split_weights(self.agent, self.devices)
            if split
            else memory.weights(self.agent),
            "adapters": memory.adapters(self.agent.shape, self.step.rank, learning=learning),
        }
        beside = self._order.target_on is None and not self.one_copy
        if beside and self._target_held is not None:
            found["target"] = memory.weights(self._target_held)
        return found

    def _passing(self) -> dict[str, float]:
        step, agent, held = self.step, self.agent, self._target_held
        rows = -(-step.rows // self.devices)
        found = {"writing": memory.writing(agent, rows, step.query, step.length)}
        if step.epochs:
            at_once = self.rows_at_once or (self._rows_learned if self._order.split else 1)
            found["learning"] = memory.learning(agent, at_once, step.query, step.length, step.rank)
        if held is None or self._order.target_on is not None:
            return found
        found["scoring"] = memory.scoring(held, self._config.target.max_batch_tokens)
        labels = self._task.kind is not TaskKind.GENERATION
        if held.quantised and labels and self._config.target.check_labels:
            full = Held(held.shape, _FULL)
            found["checking labels"] = memory.weights(full) + found["scoring"]
        return found

    def _serving(self, held: Held, devices: int, machine: Machine) -> Memory:
        calls = self._config.target.api.concurrency or CONCURRENCY
        return Memory(
            f"{machine.name} of a server",
            machine.memory * memory.SERVER_SHARE,
            {"target": memory.weights(held) / devices},
            {"serving": memory.serving(held, calls * (self._context + self._answer), devices)},
        )
