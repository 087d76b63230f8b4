import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from stableprompt.models.adapters import Role
from stableprompt.models.agent import AgentLLM
from stableprompt.models.chat import encode_chat
from stableprompt.models.responses import Evaluation
from stableprompt.ppo.loss import anchor_kl
from tests.fakes.agents import (
    MESSAGES,
    disturb,
    make_agent,
    plain_logits,
    plain_logprobs,
    uniforms_for,
)

END = 2
ROWS = [[50, 60, 70, 80, 90], [51, 61, END], [52, 62, 72, END], [END]]
TEMPERATURES = [0.7, 1.0, 1.3]


def padded(rows: list[list[int]], length: int = 5, filler: int = 0) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([row + [filler] * (length - len(row)) for row in rows])
    mask = torch.arange(length).unsqueeze(0) < torch.tensor([len(r) for r in rows]).unsqueeze(1)
    return ids, mask


def trained_agent(temperature: float = 1.0) -> AgentLLM:
    """Policy, anchor and base differ, and the value heads are not 0."""
    agent = make_agent(temperature=temperature)
    disturb(agent.learned_parameters(), seed=1)
    agent.copy(Role.POLICY, Role.ANCHOR)
    disturb(agent.learned_parameters(), seed=2)
    return agent


def forward(agent: AgentLLM, ids: Tensor, mask: Tensor) -> Evaluation:
    return agent(agent.query_ids(MESSAGES), ids, mask)


def judge(agent: AgentLLM, role: Role, rows: list[list[int]] = ROWS) -> Evaluation:
    return agent.evaluate(agent.query_ids(MESSAGES), *padded(rows, max(map(len, rows))), role=role)


def numbers(rows: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, length, generator=generator, dtype=torch.float64)


def equal(one: Evaluation, other: Evaluation) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("logprobs", "entropies", "values")
    )


# --- judging ---


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_before_training_the_ratio_is_1_and_the_kl_to_the_anchor_0(temperature: float) -> None:
    agent = make_agent(temperature=temperature)
    query = agent.query_ids(MESSAGES)
    written = agent.sample(query, numbers(4, 8))
    old = agent.evaluate(query, written.ids, written.mask, role=Role.POLICY)
    anchor = agent.evaluate(query, written.ids, written.mask, role=Role.ANCHOR)
    now = agent(query, written.ids, written.mask)
    assert now.logprobs.requires_grad
    assert (old.logprobs[written.mask] < 0).all()
    assert equal(now, old)
    assert equal(anchor, old)
    assert ((now.logprobs - old.logprobs).exp() == 1).all()
    assert anchor_kl(old.logprobs, anchor.logprobs, written.mask).item() == 0


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("role", [Role.POLICY, Role.ANCHOR])
def test_logprobs_entropies_and_values_are_those_of_a_plain_forward_pass(
    temperature: float, role: Role
) -> None:
    agent = trained_agent(temperature)
    query = agent.query_ids(MESSAGES).tolist()
    got = judge(agent, role)
    head = agent.value_heads[role]
    with torch.no_grad(), agent.adapted.role(role) as model:
        for number, row in enumerate(ROWS):
            n = len(row)
            expected = plain_logprobs(model, query, row, temperature)
            torch.testing.assert_close(got.logprobs[number, :n], expected, rtol=1e-5, atol=1e-5)
            chances = (plain_logits(model, query, row) / temperature).softmax(dim=-1)
            expected = -(chances * chances.log()).sum(dim=-1)
            torch.testing.assert_close(got.entropies[number, :n], expected, rtol=1e-5, atol=1e-5)
            states = model(
                input_ids=torch.tensor([query + row]), output_hidden_states=True
            ).hidden_states[-1][0, len(query) - 1 : -1]
            expected = (states * head.weight).sum(dim=1) + head.bias
            torch.testing.assert_close(got.values[number, :n], expected, rtol=1e-5, atol=1e-5)


def test_policy_anchor_and_base_are_judged_apart() -> None:
    agent = trained_agent()
    policy, anchor = judge(agent, Role.POLICY), judge(agent, Role.ANCHOR)
    _, mask = padded(ROWS)
    for name in ("logprobs", "entropies", "values"):
        gap = (getattr(policy, name) - getattr(anchor, name)).abs()[mask]
        assert gap.min() > 1e-5


def test_padding_is_0_and_does_not_matter() -> None:
    agent = trained_agent()
    ids, mask = padded(ROWS)
    reference = forward(agent, ids, mask)
    for name in ("logprobs", "entropies", "values"):
        assert (getattr(reference, name)[~mask] == 0).all()
    longer, longer_mask = padded(ROWS, length=9, filler=77)
    other = forward(agent, longer, longer_mask)
    for name in ("logprobs", "entropies", "values"):
        torch.testing.assert_close(
            getattr(other, name)[:, :5], getattr(reference, name), rtol=0, atol=1e-5
        )
        assert (getattr(other, name)[:, 5:] == 0).all()


def test_what_else_is_in_the_batch_does_not_matter() -> None:
    agent = trained_agent()
    together = judge(agent, Role.POLICY)
    for number, row in enumerate(ROWS):
        alone = judge(agent, Role.POLICY, [row])
        for name in ("logprobs", "entropies", "values"):
            torch.testing.assert_close(
                getattr(alone, name)[0],
                getattr(together, name)[number, : len(row)],
                rtol=0,
                atol=1e-5,
            )


def test_a_new_value_head_says_0() -> None:
    agent = make_agent()
    for role in (Role.POLICY, Role.ANCHOR):
        assert (judge(agent, role).values == 0).all()


def objective(evaluation: Evaluation) -> Tensor:
    """Every real token counts, each with a weight of its own."""
    weights = torch.linspace(-1, 2, evaluation.logprobs.numel()).view_as(evaluation.logprobs)
    return (weights * evaluation.logprobs).sum() + evaluation.values.square().sum()


def test_gradients_are_those_of_a_plain_forward_pass() -> None:
    agent = trained_agent(temperature=1.3)
    parameters = agent.learned_parameters()
    ids, mask = padded(ROWS)
    shared = torch.autograd.grad(objective(forward(agent, ids, mask)), parameters)

    query = agent.query_ids(MESSAGES).tolist()
    logprobs, values = torch.zeros(mask.shape), torch.zeros(mask.shape)
    head = agent.value_heads[Role.POLICY]
    for number, row in enumerate(ROWS):
        n = len(row)
        logprobs[number, :n] = plain_logprobs(agent.model, query, row, 1.3)
        states = agent.model(
            input_ids=torch.tensor([query + row]), output_hidden_states=True
        ).hidden_states[-1][0, len(query) - 1 : -1]
        values[number, :n] = head(states).squeeze(-1)
    plain = torch.autograd.grad(
        objective(Evaluation(logprobs, torch.zeros(mask.shape), values)), parameters
    )
    for one, other in zip(shared, plain, strict=True):
        assert one.abs().max() > 1e-3
        scale = other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * max(scale, 1))


@pytest.mark.parametrize("roles", [[], [Role.ANCHOR], [Role.BASE], [Role.ANCHOR, Role.BASE]])
def test_gradients_reach_the_policy_and_nothing_else(roles: list[Role]) -> None:
    agent = trained_agent()
    query = agent.query_ids(MESSAGES)
    for role in roles:
        with agent.adapted.role(role) as model, torch.no_grad():
            model(input_ids=query.unsqueeze(0))
    objective(forward(agent, *padded(ROWS))).backward()
    learned = agent.learned_parameters()
    assert len(learned) == 30  # 28 of the adapter, weight and bias of the value head
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in learned)
    places = {id(p) for p in learned}
    others = [p for p in agent.parameters() if id(p) not in places]
    assert len(others) == 21 + 28 + 2  # base; anchor; its value head
    assert all(p.grad is None and not p.requires_grad for p in others)


# --- policy, anchor and base while the policy learns ---


def learn(agent: AgentLLM, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW(agent.learned_parameters(), lr=0.01)
    for _ in range(steps):
        objective(forward(agent, *padded(ROWS))).backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def base_logits(agent: AgentLLM) -> Tensor:
    with agent.as_base():
        return agent.loaded.model(input_ids=torch.tensor([[1, 40, 41]])).logits


def test_an_optimizer_step_moves_the_policy_and_neither_anchor_nor_base() -> None:
    agent = trained_agent()
    policy, anchor, base = judge(agent, Role.POLICY), judge(agent, Role.ANCHOR), base_logits(agent)
    frozen = {n: p.clone() for n, p in agent.named_parameters() if not p.requires_grad}
    learn(agent)
    after = judge(agent, Role.POLICY)
    assert (after.logprobs - policy.logprobs).abs().max() > 0.01
    assert (after.values - policy.values).abs().max() > 0.01
    assert equal(judge(agent, Role.ANCHOR), anchor)
    assert torch.equal(base_logits(agent), base)
    for name, parameter in agent.named_parameters():
        assert name not in frozen or torch.equal(parameter, frozen[name])


def test_after_an_update_the_anchor_is_the_policy_and_stays_when_the_policy_learns() -> None:
    agent = trained_agent()
    agent.copy(Role.POLICY, Role.ANCHOR)
    anchor = judge(agent, Role.ANCHOR)
    assert equal(anchor, judge(agent, Role.POLICY))
    learn(agent)
    assert equal(judge(agent, Role.ANCHOR), anchor)
    assert not equal(judge(agent, Role.POLICY), anchor)


def test_after_a_roll_back_the_policy_is_the_anchor_and_still_learns() -> None:
    agent = trained_agent()
    anchor = judge(agent, Role.ANCHOR)
    agent.copy(Role.ANCHOR, Role.POLICY)
    rolled_back = judge(agent, Role.POLICY)
    assert equal(rolled_back, anchor)
    learn(agent)
    after = judge(agent, Role.POLICY)
    assert (after.logprobs - anchor.logprobs).abs().max() > 0.01
    assert (after.values - anchor.values).abs().max() > 0.01
    assert equal(judge(agent, Role.ANCHOR), anchor)


def test_tensors_restore_policy_and_anchor() -> None:
    agent = trained_agent()
    tensors = deepcopy(agent.tensors())
    new = make_agent(seed=9)
    new.load_tensors(tensors)
    for role in (Role.POLICY, Role.ANCHOR):
        assert equal(judge(new, role), judge(agent, role))


# --- writing ---


def test_query_ids_are_the_encoded_chat() -> None:
    agent = make_agent()
    assert agent.query_ids(MESSAGES).tolist() == encode_chat(agent.tokenizer, MESSAGES)


def test_the_same_random_numbers_write_the_same_prompt_alone_and_in_a_batch() -> None:
    agent = trained_agent()
    query, uniforms = agent.query_ids(MESSAGES), numbers(6, 12)
    together = agent.sample(query, uniforms)
    assert len(set(together.texts)) == 6
    for number in range(6):
        alone = agent.sample(query, uniforms[number : number + 1])
        n = int(alone.mask.sum())
        assert alone.ids[0].tolist() == together.ids[number, :n].tolist()
        assert n == int(together.mask[number].sum())
        assert alone.texts[0] == together.texts[number]
        assert alone.truncated[0] == together.truncated[number]


def test_each_role_writes_with_its_own_weights() -> None:
    agent = trained_agent()
    query, uniforms = agent.query_ids(MESSAGES), numbers(2, 12)
    texts = {role: agent.sample(query, uniforms, role=role).texts for role in Role}
    assert len(set(texts.values())) == 3
    agent.copy(Role.ANCHOR, Role.POLICY)
    assert agent.sample(query, uniforms).texts == texts[Role.ANCHOR]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_tokens_are_drawn_from_the_softmax_at_the_temperature(temperature: float) -> None:
    agent = trained_agent(temperature)
    query = agent.query_ids(MESSAGES)
    first, count = 50, 4000
    [[start, _]] = uniforms_for(agent, query, [[first, 60]])
    for given_first in (False, True):
        uniforms = numbers(count, 1, seed=3)
        if given_first:
            uniforms = torch.cat([start.expand(count, 1), uniforms], dim=1)
        written = agent.sample(query, uniforms)
        position = uniforms.shape[1] - 1
        assert (written.ids[:, :position] == first).all()
        with torch.no_grad():
            logits = plain_logits(agent.model, query.tolist(), [first, 60])[position]
        chances = (logits.double() / temperature).softmax(dim=-1)
        require_drawn_from(chances, written.ids[:, position])


def require_drawn_from(chances: Tensor, tokens: Tensor) -> None:
    """Chi-square has mean k and variance 2 k; four standard deviations above is far enough."""
    count = len(tokens)
    found = torch.bincount(tokens, minlength=len(chances))
    common = chances * count >= 5
    observed = torch.cat([found[common], found[~common].sum().view(1)])
    expected = torch.cat([chances[common], chances[~common].sum().view(1)]) * count
    statistic = ((observed - expected).square() / expected).sum().item()
    freedom = len(expected) - 1
    assert freedom > 20
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_a_prompt_ends_with_its_first_end_token() -> None:
    agent = trained_agent()
    query = agent.query_ids(MESSAGES)
    wanted = [
        [50, 60, END, 70, END, 80],  # ends, and would have gone on
        [51, 61, 71, 81, 91, 55],  # is cut by the cap
        [52, 62, 72, 82, 92, END],  # ends with the last token that it may write
        [END, 53, 63, 73, 83, 93],  # says nothing
    ]
    written = agent.sample(query, uniforms_for(agent, query, wanted))
    assert written.mask.sum(dim=1).tolist() == [3, 6, 6, 1]
    for row, ids, mask in zip(wanted, written.ids, written.mask, strict=True):
        n = int(mask.sum())
        assert mask[:n].all()
        assert ids[:n].tolist() == row[:n]
        assert (ids[n:] == agent.tokenizer.pad_token_id).all()
    assert written.truncated == (False, True, False, False)
    decode = agent.tokenizer.decode
    assert written.texts == (
        decode([50, 60]).strip(),
        decode([51, 61, 71, 81, 91, 55]).strip(),
        decode([52, 62, 72, 82, 92]).strip(),
        "",
    )


def test_no_column_is_left_where_every_prompt_has_ended() -> None:
    agent = trained_agent()
    query = agent.query_ids(MESSAGES)
    wanted = [[50, 60, END, 70, 80], [END, 51, 61, 71, 81]]
    written = agent.sample(query, uniforms_for(agent, query, wanted))
    assert written.ids.tolist() == [[50, 60, END], [END, 0, 0]]
    assert written.mask.tolist() == [[True, True, True], [True, False, False]]
    assert written.truncated == (False, False)


def test_every_end_token_of_the_checkpoint_ends_a_prompt() -> None:
    agent = make_agent()
    agent.loaded.model.generation_config.eos_token_id = [77]
    query = agent.query_ids(MESSAGES)
    uniforms = uniforms_for(agent, query, [[50, 77, 60], [50, END, 60], [50, 60, 70]])
    written = agent.sample(query, uniforms)
    assert written.mask.sum(dim=1).tolist() == [2, 2, 3]
    assert written.truncated == (False, False, True)


def test_texts_hold_no_special_tokens_and_no_outer_spaces() -> None:
    agent = make_agent()
    query = agent.query_ids(MESSAGES)
    [a, b] = agent.tokenizer("ab", add_special_tokens=False)["input_ids"]
    [space] = agent.tokenizer(" ", add_special_tokens=False)["input_ids"]
    # <pad> is 0, <|im_start|> is 1.
    uniforms = uniforms_for(agent, query, [[space, a, 1, b, 0, space, END]])
    written = agent.sample(query, uniforms)
    assert written.ids.tolist() == [[space, a, 1, b, 0, space, END]]
    assert written.texts == ("ab",)


def test_sampling_and_judging_agree_on_how_likely_a_prompt_was() -> None:
    agent = trained_agent(temperature=0.7)
    query = agent.query_ids(MESSAGES)
    written = agent.sample(query, numbers(3, 6))
    got = agent.evaluate(query, written.ids, written.mask, role=Role.POLICY).logprobs
    with torch.no_grad():
        for number in range(3):
            n = int(written.mask[number].sum())
            expected = plain_logprobs(
                agent.model, query.tolist(), written.ids[number, :n].tolist(), 0.7
            )
            torch.testing.assert_close(got[number, :n], expected, rtol=1e-5, atol=1e-5)


# --- surprisal ---


def test_surprisals_are_those_of_the_base_and_of_the_text_alone() -> None:
    agent = trained_agent()
    texts = ["Classify the message.", "zq xv", "Answer yes or no."]
    got = agent.surprisals(texts)
    for text, surprisal in zip(texts, got, strict=True):
        # The template is <|im_start|>user\n TEXT <|im_end|>\n<|im_start|>assistant\n
        before, after = agent.tokenizer(
            ["<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"], add_special_tokens=False
        )["input_ids"]
        ids = encode_chat(agent.tokenizer, [{"role": "user", "content": text}])
        own = ids[len(before) : len(ids) - len(after)]
        with torch.no_grad(), agent.as_base():
            logprobs = plain_logprobs(agent.loaded.model, before, own)
        assert surprisal.nats == pytest.approx(-logprobs.sum().item(), rel=1e-5)
        assert surprisal.num_tokens == len(own)
        assert agent.surprisals([text]) == [surprisal]


@pytest.mark.parametrize("text", ["", " ", "\n", "<|im_end|>", "\ufffd"])
def test_even_a_text_of_nothing_can_be_measured(text: str) -> None:
    [surprisal] = trained_agent().surprisals([text])
    assert 0 < surprisal.nats < math.inf
    assert surprisal.num_tokens >= 1


def test_no_texts_have_no_surprisals() -> None:
    assert make_agent().surprisals([]) == []


# --- prompts that are known as texts ---


def test_appended_prompts_are_rows_of_their_own_that_end_their_turn() -> None:
    agent = make_agent()
    ids = torch.tensor([[50, 60, END], [70, END, 0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    texts = ["Classify the message, please.", "yes"]
    more, real = agent.append(ids, mask, texts)
    spoken = [agent.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
    width = len(spoken[0]) + 1
    assert width > 3 > len(spoken[1])
    pad = agent.tokenizer.pad_token_id
    for row, wanted in zip(
        range(4), ([50, 60, END], [70, END], *[[*s, END] for s in spoken]), strict=True
    ):
        assert more[row].tolist() == wanted + [pad] * (width - len(wanted))
        assert real[row].tolist() == [True] * len(wanted) + [False] * (width - len(wanted))
    assert (more.dtype, real.dtype) == (torch.long, torch.bool)


def test_prompts_shorter_than_the_responses_are_padded() -> None:
    agent = make_agent()
    ids, mask = torch.full((1, 9), 50), torch.ones(1, 9, dtype=torch.bool)
    more, real = agent.append(ids, mask, ["yes"])
    length = len(agent.tokenizer("yes", add_special_tokens=False)["input_ids"]) + 1
    assert torch.equal(more[:1], ids)
    assert torch.equal(real[:1], mask)
    assert more[1, length - 1 :].tolist() == [END] + [agent.tokenizer.pad_token_id] * (9 - length)
    assert real[1].sum() == length


def test_appended_prompts_are_as_likely_as_the_policy_would_have_found_them() -> None:
    agent = trained_agent(temperature=0.7)
    query = agent.query_ids(MESSAGES)
    written = agent.sample(query, numbers(2, 4))
    ids, mask = agent.append(written.ids, written.mask, ["Answer yes or no."])
    got = agent.evaluate(query, ids, mask, role=Role.POLICY).logprobs
    spoken = agent.tokenizer("Answer yes or no.", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        expected = plain_logprobs(agent.model, query.tolist(), [*spoken, END], 0.7)
    torch.testing.assert_close(got[2, : len(expected)], expected, rtol=1e-5, atol=1e-5)
