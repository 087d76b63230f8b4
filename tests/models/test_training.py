from pathlib import Path

import accelerate
import pytest
import torch
from safetensors.torch import load_file, save_file

from stableprompt.errors import ConfigError
from stableprompt.models import training
from stableprompt.models.adapters import Role
from stableprompt.models.training import (
    Trainable,
    load_training_tensors,
    prepare_training,
    training_tensors,
)
from tests.fakes.agents import MESSAGES, disturb, make_agent

RESPONSES = torch.tensor([[50, 60, 70, 2], [51, 61, 2, 0]])
MASK = torch.tensor([[True, True, True, True], [True, True, True, False]])


def make_trainable(*, seed: int = 0) -> Trainable:
    return prepare_training(make_agent(seed=seed), learning_rate=0.01)


def step(trainable: Trainable, count: int) -> None:
    """Optimizer steps whose gradients differ from one to the next."""
    query = trainable.agent.query_ids(MESSAGES)
    for number in range(count):
        now = trainable.prepared(query, RESPONSES, MASK)
        goal = -1.0 - number
        loss = (now.logprobs - goal).square().mean() + (now.values - goal).square().mean()
        trainable.accelerator.backward(loss)
        trainable.optimizer.step()
        trainable.optimizer.zero_grad()


def assert_equal(one: Trainable, other: Trainable) -> None:
    first, second = training_tensors(one), training_tensors(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_checkpoint_continues_bit_by_bit(tmp_path: Path) -> None:
    file = tmp_path / "training.safetensors"
    one = make_trainable()
    step(one, 2)
    one.agent.copy(Role.POLICY, Role.ANCHOR)
    step(one, 1)
    save_file(training_tensors(one), file)
    step(one, 3)

    other = make_trainable(seed=9)
    step(other, 1)  # whatever it had learned is forgotten
    load_training_tensors(other, load_file(file))
    step(other, 3)
    assert_equal(one, other)
    for mine, theirs in zip(
        one.agent.learned_parameters(), other.agent.learned_parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_a_checkpoint_of_the_start_forgets_the_optimizer() -> None:
    one, other = make_trainable(), make_trainable(seed=9)
    tensors = {name: tensor.clone() for name, tensor in training_tensors(one).items()}
    assert not any(name.startswith("optimizer/") for name in tensors)
    step(other, 2)
    load_training_tensors(other, tensors)
    step(one, 2)
    step(other, 2)
    assert_equal(one, other)


def test_what_is_loaded_is_a_copy() -> None:
    one = make_trainable()
    step(one, 1)
    tensors = {name: tensor.clone() for name, tensor in training_tensors(one).items()}
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    load_training_tensors(one, tensors)
    step(one, 2)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, kept[name]), name


def test_a_checkpoint_does_not_change_when_training_goes_on() -> None:
    one = make_trainable()
    step(one, 1)
    tensors = training_tensors(one)
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    step(one, 1)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, kept[name]), name


def test_the_optimizer_trains_the_policy_and_its_value_head_without_decay() -> None:
    trainable = make_trainable()
    disturb(trainable.agent.learned_parameters())
    [group] = trainable.optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in trainable.agent.learned_parameters()]
    assert (group["lr"], group["weight_decay"]) == (0.01, 0.0)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Several(accelerate.Accelerator):
        @property
        def num_processes(self) -> int:
            return 2

    monkeypatch.setattr(training, "Accelerator", Several)
    with pytest.raises(ConfigError, match="one process, it was launched with 2"):
        make_trainable()


def test_mixed_precision_of_the_launcher_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # In the update alone it would move the first ratio away from 1.
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    accelerate.state.AcceleratorState._reset_state()
    trainable = make_trainable()
    assert trainable.accelerator.mixed_precision == "no"
    query = trainable.agent.query_ids(MESSAGES)
    told = trainable.prepared(query, RESPONSES, MASK).logprobs
    before = trainable.agent.evaluate(query, RESPONSES, MASK, role=Role.POLICY).logprobs
    assert torch.equal(told, before)
