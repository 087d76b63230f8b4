"""The controls for learning: a step of standard parts, as PPO libraries do it.

Every rollout carries its own copy of the meta-prompt, through sampling, through the passes for
old and anchor log-probabilities and through the update; logits are made for every position. Agent,
anchor and target have weights of their own. The losses and the LoRA adapter are those of the
package, so that both train the same thing.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessor

from benchmarks.naive import naive_scoring
from benchmarks.workload import Workload
from stableprompt.config import PPOConfig
from stableprompt.ppo.loss import anchor_kl_loss, clipped_policy_loss, clipped_value_loss
from stableprompt.ppo.rollout import Rollout
from stableprompt.tasks.example import Example
from stableprompt.tuning.update import advantages_of


@dataclass(frozen=True, slots=True)
class Speaker:
    """A model with a LoRA adapter and a value head."""

    model: Any
    head: nn.Linear
    temperature: float

    def learned(self) -> list[nn.Parameter]:
        """What PPO trains."""
        own = [p for p in self.model.parameters() if p.requires_grad]
        return [*own, *self.head.parameters()]


def full_rows(
    speaker: Speaker, query_ids: Tensor, responses: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and values of responses, (P, T) each, 0 where the mask is False.

    Each row is meta-prompt and response. As in TRL: logits, log-softmax and values exist for all
    positions of it, and hidden states of all layers are asked for, for the value head's sake.
    """
    num_rows, length = responses.shape
    ids = torch.cat([query_ids.expand(num_rows, -1), responses], dim=1)
    seen = torch.cat([mask.new_ones((num_rows, len(query_ids))), mask], dim=1).long()
    out = speaker.model(
        input_ids=ids, attention_mask=seen, use_cache=False, output_hidden_states=True
    )
    logits = out.logits.float().div_(speaker.temperature)  # in place: no further copy
    logprobs = logits[:, :-1].log_softmax(dim=-1)
    logprobs = logprobs.gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)[:, -length:]
    values = speaker.head(out.hidden_states[-1].float()).squeeze(-1)[:, -length - 1 : -1]
    zero = logprobs.new_zeros(())
    return logprobs.where(mask, zero), values.where(mask, zero)


def unshared_update(
    speaker: Speaker, optimizer: Any, rollout: Rollout, config: PPOConfig, *, seed: int
) -> list[float]:
    """The package's PPO update over full rows; the policy loss of each optimizer step."""
    advantages, returns = advantages_of(rollout, config)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(config.ppo_epochs):
        order = torch.randperm(len(rollout.rewards), generator=generator)
        for part in order.split(config.minibatch_size):
            rows = part.sort().values.to(rollout.mask.device)
            mask = rollout.mask[rows]
            logprobs, values = full_rows(
                speaker, rollout.query_ids, rollout.response_ids[rows], mask
            )
            policy_loss = clipped_policy_loss(
                logprobs,
                rollout.old_logprobs[rows],
                advantages[rows],
                mask,
                clip_range=config.clip_range,
            )
            value_loss = clipped_value_loss(
                values,
                rollout.old_values[rows],
                returns[rows],
                mask,
                clip_range=config.clip_range,
            )
            kl_loss = anchor_kl_loss(logprobs, rollout.anchor_logprobs[rows], mask)
            loss = policy_loss + config.value_coef * value_loss + config.kl_coef * kl_loss
            loss.backward()
            nn.utils.clip_grad_norm_(speaker.learned(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(policy_loss.detach()))
    return losses


# --- a whole step, with three copies of the weights ---


@dataclass(frozen=True, slots=True)
class ThreeCopies:
    """Agent, anchor and target, each with weights of its own."""

    policy: Speaker
    anchor: Speaker
    target: Any
    tokenizer: Any
    end_ids: list[int]


@dataclass(frozen=True, slots=True)
class Replay:
    """What the package wrote in the same step: the control writes it again, token by token.

    Else the two would score and learn from prompts of different number and length.
    """

    query_ids: Tensor
    responses: Tensor
    mask: Tensor
    refused: tuple[bool, ...]


def load_three_copies(
    source: str,
    adapters: Path,
    tokenizer: Any,
    end_ids: list[int],
    *,
    device: torch.device,
    dtype: torch.dtype,
    temperature: float,
) -> ThreeCopies:
    """Read the checkpoint three times.

    Args:
        source: Folder or hub id.
        adapters: LoRA adapters in peft's format, in folders named policy and anchor.
        tokenizer: Of the checkpoint.
        end_ids: Tokens that end an answer.
        device: Where all three lie.
        dtype: Of the weights.
        temperature: Of sampling.
    """

    def read() -> Any:
        load: Any = AutoModelForCausalLM.from_pretrained
        model = load(source, dtype=dtype).to(device).eval().requires_grad_(False)
        for parameter in model.parameters():
            # What was read may still be the mapped file, which three loads would share.
            parameter.data = parameter.data.clone()
        return model

    def speaker(name: str, *, learns: bool) -> Speaker:
        with warnings.catch_warnings():
            # peft asks transformers for an attribute by its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            model = PeftModel.from_pretrained(read(), adapters / name, is_trainable=learns).eval()
        head = nn.Linear(model.get_output_embeddings().weight.shape[1], 1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return Speaker(model, head.to(device).requires_grad_(learns), temperature)

    policy, anchor = speaker("policy", learns=True), speaker("anchor", learns=False)
    return ThreeCopies(policy, anchor, read(), tokenizer, end_ids)


class _Forced(LogitsProcessor):
    """Leaves one token to choose from."""

    def __init__(self, responses: Tensor, start: int) -> None:
        self._responses = responses
        self._start = start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        wanted = self._responses[:, input_ids.shape[1] - self._start].unsqueeze(1)
        return torch.full_like(scores, -torch.inf).scatter(1, wanted, 0.0)


@torch.no_grad()
def write(copies: ThreeCopies, replay: Replay) -> Tensor:
    """Sample with ``generate``: P copies of the meta-prompt are read, (P, T)."""
    rows, limit = replay.responses.shape
    settings = GenerationConfig(
        do_sample=True,
        temperature=copies.policy.temperature,
        top_k=0,
        top_p=1.0,
        num_return_sequences=rows,
        max_new_tokens=limit,
        pad_token_id=copies.tokenizer.pad_token_id,
        eos_token_id=copies.end_ids,
    )
    query = replay.query_ids.unsqueeze(0)
    out = copies.policy.model.generate(
        input_ids=query,
        attention_mask=torch.ones_like(query),
        generation_config=settings,
        logits_processor=[_Forced(replay.responses, query.shape[1])],
    )
    written: Tensor = out[:, query.shape[1] :]
    return written


def naive_step(
    copies: ThreeCopies,
    optimizer: Any,
    workload: Workload,
    examples: Sequence[Example],
    replay: Replay,
    *,
    clock: Callable[[str], None] = lambda _phase: None,
) -> Rollout:
    """One step: write, evaluate twice, score the seed prompt and each prompt, update.

    Args:
        copies: Agent, anchor and target.
        optimizer: Over what the policy learns.
        workload: Task and settings.
        examples: What the prompts are scored on.
        replay: What is to be written.
        clock: Told the name of each phase when it ends.
    """
    config = workload.config
    responses = write(copies, replay)
    texts = copies.tokenizer.batch_decode(responses, skip_special_tokens=True)
    clock("writing")
    mask = replay.mask
    with torch.no_grad():
        old_logprobs, old_values = full_rows(copies.policy, replay.query_ids, responses, mask)
        anchor_logprobs, _ = full_rows(copies.anchor, replay.query_ids, responses, mask)
    clock("evaluation")
    prompts = [t.strip() for t, no in zip(texts, replay.refused, strict=True) if not no]
    blocks = workload.conversations([workload.task.seed_prompt, *prompts], examples)
    table = naive_scoring(copies.target, copies.tokenizer, blocks, workload.words)
    earned = iter(rewards_of(table.split(len(examples))[1:], workload, examples))
    rewards = [config.reward.fault_reward if no else next(earned) for no in replay.refused]
    clock("scoring")
    rollout = Rollout(
        query_ids=replay.query_ids,
        response_ids=responses,
        mask=mask,
        old_logprobs=old_logprobs,
        anchor_logprobs=anchor_logprobs,
        entropies=torch.zeros_like(old_logprobs),  # reported only; the control saves the work
        old_values=old_values,
        rewards=torch.tensor(rewards, device=mask.device),
    )
    unshared_update(copies.policy, optimizer, rollout, config.ppo, seed=0)
    clock("update")
    return rollout


def rewards_of(
    tables: Sequence[Tensor], workload: Workload, examples: Sequence[Example]
) -> list[float]:
    """Eq. 13 of each prompt, from its probabilities of the label words, (N, C)."""
    right = torch.tensor(workload.right_of(examples)).unsqueeze(1)
    rewards = []
    for probs in tables:
        correct = probs.gather(1, right).squeeze(1)
        largest_other = probs.scatter(1, right, -torch.inf).max(dim=1).values
        difference = correct - largest_other
        accuracy = float((difference > 0).double().mean())
        weights = workload.config.reward
        rewards.append(
            weights.accuracy_weight * accuracy
            + weights.softmax_weight * float(difference.double().mean())
        )
    return rewards
