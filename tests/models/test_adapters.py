from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from stableprompt.errors import ModelError
from stableprompt.models.adapters import AdaptedModel, Role, read_lora_config
from tests.fakes.agents import disturb, make_lora
from tests.fakes.tiny_model import make_model

IDS = torch.tensor([[1, 40, 41, 42, 43]])


def make_adapted(*, seed: int = 0, rank: int = 4) -> AdaptedModel:
    return AdaptedModel(make_model(60), make_lora(rank), seed=seed)


@torch.no_grad()
def logits(adapted: AdaptedModel, role: Role) -> Tensor:
    with adapted.role(role) as model:
        return model(input_ids=IDS).logits


def test_before_training_every_role_says_what_the_base_said() -> None:
    base = make_model(60)
    with torch.no_grad():
        before = base(input_ids=IDS).logits
    adapted = AdaptedModel(base, make_lora(), seed=0)
    for role in Role:
        assert torch.equal(logits(adapted, role), before)


def test_policy_and_anchor_start_with_the_same_weights() -> None:
    state = make_adapted().state()
    for name, tensor in state.items():
        assert torch.equal(state[name.replace("policy", "anchor", 1)], tensor), name
    assert any(tensor.any() for tensor in state.values())


def test_the_base_says_the_same_whatever_policy_and_anchor_have_learned() -> None:
    base = make_model(60)
    with torch.no_grad():
        before = deepcopy(base)(input_ids=IDS).logits
    adapted = AdaptedModel(base, make_lora(), seed=0)
    disturb(adapted.parameters())
    adapted.copy(Role.POLICY, Role.ANCHOR)
    disturb(adapted.parameters(), seed=1)
    assert torch.equal(logits(adapted, Role.BASE), before)
    assert not torch.equal(logits(adapted, Role.POLICY), before)
    assert not torch.equal(logits(adapted, Role.ANCHOR), logits(adapted, Role.POLICY))


@pytest.mark.parametrize("role", [Role.ANCHOR, Role.BASE])
def test_after_a_role_the_policy_speaks_again(role: Role) -> None:
    adapted = make_adapted()
    disturb(adapted.parameters())
    with torch.no_grad():
        before = adapted.model(input_ids=IDS).logits
        with pytest.raises(RuntimeError, match="interrupted"), adapted.role(role):
            raise RuntimeError("interrupted")
        assert torch.equal(adapted.model(input_ids=IDS).logits, before)


@pytest.mark.parametrize("outer", list(Role))
@pytest.mark.parametrize("inner", list(Role))
def test_after_a_role_inside_another_the_other_speaks_again(outer: Role, inner: Role) -> None:
    adapted = make_adapted()
    disturb(adapted.parameters())
    adapted.copy(Role.POLICY, Role.ANCHOR)
    disturb(adapted.parameters(), seed=1)
    wanted = {role: logits(adapted, role) for role in Role}
    assert not torch.equal(wanted[Role.POLICY], wanted[Role.ANCHOR])
    with torch.no_grad(), adapted.role(outer) as model:
        with pytest.raises(RuntimeError, match="interrupted"), adapted.role(inner):
            assert torch.equal(model(input_ids=IDS).logits, wanted[inner])
            raise RuntimeError("interrupted")
        assert torch.equal(model(input_ids=IDS).logits, wanted[outer])
    with torch.no_grad():
        assert torch.equal(adapted.model(input_ids=IDS).logits, wanted[Role.POLICY])


def trained_names(adapted: AdaptedModel) -> set[str]:
    return {name for name, p in adapted.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("role", list(Role))
def test_only_the_policy_ever_learns(role: Role) -> None:
    adapted = make_adapted()
    policy = {name for name, _ in adapted.model.named_parameters() if ".policy." in name}
    assert len(policy) == len(adapted.parameters()) == 28  # 2 layers, 7 matrices each, A and B
    assert trained_names(adapted) == policy
    with adapted.role(role):
        assert trained_names(adapted) == policy
    assert trained_names(adapted) == policy


def test_the_seed_fixes_the_start_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = make_adapted(seed=1), make_adapted(seed=1), make_adapted(seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert all(map(torch.equal, one.parameters(), same.parameters()))
    assert not all(map(torch.equal, one.parameters(), other.parameters()))


def test_dropout_is_off() -> None:
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", lora_dropout=0.5)
    adapted = AdaptedModel(make_model(60), lora, seed=0)
    disturb(adapted.parameters())
    assert not adapted.model.training
    adapted.model.train()
    assert torch.equal(adapted.model(input_ids=IDS).logits, adapted.model(input_ids=IDS).logits)


@pytest.mark.parametrize(
    ("source", "destination"), [(Role.POLICY, Role.ANCHOR), (Role.ANCHOR, Role.POLICY)]
)
def test_copies_are_by_value(source: Role, destination: Role) -> None:
    adapted = make_adapted()
    disturb(adapted.parameters())  # now they differ
    wanted = logits(adapted, source)
    assert not torch.equal(logits(adapted, destination), wanted)
    adapted.copy(source, destination)
    assert torch.equal(logits(adapted, destination), wanted)
    disturb(adapted.parameters(), seed=1)
    assert torch.equal(logits(adapted, Role.ANCHOR), wanted)
    assert not torch.equal(logits(adapted, Role.POLICY), wanted)


def test_adapters_are_equal_until_one_number_differs() -> None:
    adapted = make_adapted()
    assert adapted.equal(Role.POLICY, Role.ANCHOR)
    with torch.no_grad():
        adapted.parameters()[-1].view(-1)[-1] += 1e-6
    assert not adapted.equal(Role.POLICY, Role.ANCHOR)
    assert not adapted.equal(Role.ANCHOR, Role.POLICY)
    adapted.copy(Role.ANCHOR, Role.POLICY)
    assert adapted.equal(Role.POLICY, Role.ANCHOR)


def test_state_holds_both_adapters() -> None:
    adapted = make_adapted()
    disturb(adapted.parameters())
    state = {name: tensor.clone() for name, tensor in adapted.state().items()}
    assert len(state) == 56
    new = make_adapted(seed=9)
    new.load_state(state)
    for role in (Role.POLICY, Role.ANCHOR):
        assert torch.equal(logits(new, role), logits(adapted, role))


# --- saved adapters ---


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[tuple[AdaptedModel, Path]]:
    """A trained policy and the folder that its files lie in."""
    adapted = make_adapted()
    disturb(adapted.parameters())
    adapted.save_adapter(tmp_path)
    [weights] = tmp_path.rglob("adapter_model.safetensors")
    yield adapted, weights.parent


def test_a_saved_adapter_starts_policy_and_anchor(saved: tuple[AdaptedModel, Path]) -> None:
    adapted, folder = saved
    # The saved configuration is for inference; it must be trained all the same.
    new = AdaptedModel(make_model(60), read_lora_config(folder), seed=9)
    new.load_adapter(folder)
    wanted = logits(adapted, Role.POLICY)
    assert not torch.equal(logits(adapted, Role.BASE), wanted)
    assert torch.equal(logits(new, Role.POLICY), wanted)
    assert torch.equal(logits(new, Role.ANCHOR), wanted)
    assert trained_names(new) == trained_names(adapted) != set()
    disturb(new.parameters(), seed=1)
    assert torch.equal(logits(new, Role.ANCHOR), wanted)


def test_an_adapter_is_loaded_from_the_folder_it_was_saved_in(tmp_path: Path) -> None:
    adapted = make_adapted()
    adapted.save_adapter(tmp_path)
    adapted.load_adapter(tmp_path)


def test_the_read_configuration_is_the_saved_one(saved: tuple[AdaptedModel, Path]) -> None:
    config = read_lora_config(saved[1])
    assert (config.r, config.lora_alpha) == (4, 12)


@pytest.mark.parametrize("rank", [2, 8])
def test_an_adapter_of_another_shape_is_refused(
    saved: tuple[AdaptedModel, Path], rank: int
) -> None:
    new = make_adapted(rank=rank)
    before = logits(new, Role.POLICY)
    with pytest.raises(ModelError, match="28 of 28 tensors differ"):
        new.load_adapter(saved[1])
    assert torch.equal(logits(new, Role.POLICY), before)


@pytest.mark.parametrize(("extra", "differ"), [(False, 1), (True, 0)])
def test_missing_and_unknown_tensors_are_refused(
    saved: tuple[AdaptedModel, Path], extra: bool, differ: int
) -> None:
    file = saved[1] / "adapter_model.safetensors"
    tensors = load_file(file)
    if extra:
        tensors["lm_head.lora_A.weight"] = torch.zeros(4, 32)
    else:
        tensors.pop(next(iter(tensors)))
    save_file(tensors, file)
    with pytest.raises(ModelError, match=f"{differ} of 28 tensors differ"):
        make_adapted().load_adapter(saved[1])


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no adapter_config\.json"):
        read_lora_config(tmp_path)


def test_an_adapter_that_is_not_lora_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}'
    )
    with pytest.raises(ModelError, match="only LoRA"):
        read_lora_config(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        make_adapted().load_adapter(tmp_path)


def test_the_first_policy_says_what_the_policy_said_at_first() -> None:
    adapted = make_adapted()
    disturb(adapted.parameters())  # of no effect on what is remembered
    assert not adapted.untrained
    adapted.copy(Role.POLICY, Role.ANCHOR)
    state = {name: tensor.clone() for name, tensor in adapted.state().items()}
    assert torch.equal(logits(adapted, Role.FIRST), logits(make_adapted(), Role.POLICY))
    assert not torch.equal(logits(adapted, Role.FIRST), logits(adapted, Role.ANCHOR))
    for name, tensor in adapted.state().items():  # the anchor has its place back
        assert torch.equal(tensor, state[name]), name
    assert not adapted._kept  # nothing of it stays on the device
    adapted.load_state(make_adapted().state())
    assert adapted.untrained


def test_the_first_policy_is_the_adapter_that_was_loaded(tmp_path: Path) -> None:
    saved = make_adapted()
    disturb(saved.parameters())
    saved.save_adapter(tmp_path)
    adapted = make_adapted()
    adapted.load_adapter(tmp_path)
    assert adapted.untrained
    disturb(adapted.parameters(), seed=1)
    assert torch.equal(logits(adapted, Role.FIRST), logits(saved, Role.POLICY))
