"""The agent: reads a meta-prompt, writes prompts, and says how likely each token was."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stableprompt.models.adapters import AdaptedModel, Role
from stableprompt.models.chat import Message, encode_chat
from stableprompt.models.loading import LoadedModel
from stableprompt.models.prefix import head_inputs, repeat_cache, right_pad


@dataclass(frozen=True, slots=True)
class Responses:
    """Prompts as they were sampled."""

    ids: Tensor
    """Token ids, right-padded, (P, T)."""
    mask: Tensor
    """True up to and including the end-of-turn token, (P, T)."""
    texts: tuple[str, ...]
    """Decoded, without special tokens, stripped."""
    truncated: tuple[bool, ...]
    """Whether the length cap cut the prompt before its end-of-turn token."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one role thinks of given responses; shapes (P, T)."""

    logprobs: Tensor
    """Of the tokens, at the sampling temperature."""
    entropies: Tensor
    """Of the distribution before each token, nats, without gradient."""
    values: Tensor
    """Predicted return before each token."""


class AgentLLM(nn.Module):
    """One base model with the adapters ``policy`` and ``anchor`` and a value head for each.

    Args:
        loaded: The checkpoint that writes prompts.
        adapted: The same checkpoint, carrying the adapters.
        temperature: Sampling temperature; part of every log-probability, so that the PPO ratio
            compares the distributions that are really sampled from.
    """

    def __init__(self, loaded: LoadedModel, adapted: AdaptedModel, *, temperature: float) -> None:
        super().__init__()
        self.loaded = loaded
        self.adapted = adapted
        self.tokenizer = loaded.tokenizer
        self.temperature = temperature
        self.model = adapted.model
        hidden = loaded.model.get_output_embeddings().weight.shape[1]
        # Zero at first: an untrained head must not invent returns.
        self.value_heads = nn.ModuleDict({r: nn.Linear(hidden, 1) for r in _LEARNERS})
        for head in self.value_heads.values():
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        self.value_heads.to(loaded.device)
        self.value_heads[Role.ANCHOR].requires_grad_(False)

    # --- writing ---

    def query_ids(self, messages: Sequence[Message]) -> Tensor:
        """Token ids of a meta-prompt, (Q,)."""
        ids = encode_chat(self.tokenizer, messages)
        return torch.tensor(ids, dtype=torch.long, device=self.loaded.device)

    @torch.no_grad()
    def sample(self, query_ids: Tensor, uniforms: Tensor, *, role: Role = Role.POLICY) -> Responses:
        """Write one prompt for each row of random numbers.

        Each row is sampled by inverting the cumulative distribution at its own numbers: the same
        numbers give the same prompt whatever else is in the batch, and policy and anchor can be
        compared on common random numbers.

        Args:
            query_ids: The meta-prompt, (Q,).
            uniforms: Numbers in [0, 1), float64, (P, T); T is the length cap.
            role: Who writes.
        """
        rows, limit = uniforms.shape
        end_ids = self._end_ids()
        ids = torch.full((rows, limit), int(self.tokenizer.pad_token_id), device=query_ids.device)
        mask = torch.zeros((rows, limit), dtype=torch.bool, device=query_ids.device)
        running = torch.ones(rows, dtype=torch.bool, device=query_ids.device)
        with self.adapted.role(role) as model:
            out = model(input_ids=query_ids.unsqueeze(0), use_cache=True, logits_to_keep=1)
            cache = repeat_cache(out.past_key_values, rows)
            logits = out.logits[:, -1].expand(rows, -1)
            for t in range(limit):
                token = self._invert(logits, uniforms[:, t])
                ids[:, t] = torch.where(running, token, ids[:, t])
                mask[:, t] = running
                running = running & ~torch.isin(token, end_ids)
                if t + 1 == limit or not running.any():
                    break
                out = model(input_ids=token.unsqueeze(1), past_key_values=cache, use_cache=True)
                logits = out.logits[:, -1]
        used = int(mask.sum(dim=1).max())
        texts = self.tokenizer.batch_decode(ids[:, :used], skip_special_tokens=True)
        return Responses(
            ids[:, :used],
            mask[:, :used],
            tuple(text.strip() for text in texts),
            tuple(bool(cut) for cut in running.tolist()),
        )

    def _invert(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Inverse-CDF sampling, one token a row, (P,)."""
        chances = (logits.double() / self.temperature).softmax(dim=-1)  # (P, V)
        cumulative = chances.cumsum(dim=-1)
        # Scaled by the last entry, so that rounding can never leave a number above every step.
        wanted = (uniforms.to(logits.device) * cumulative[:, -1]).unsqueeze(1)
        token = torch.searchsorted(cumulative, wanted, right=True).squeeze(1)
        return token.clamp(max=logits.shape[-1] - 1)

    def _end_ids(self) -> Tensor:
        return torch.tensor(self.loaded.end_of_turn_ids, device=self.loaded.device)

    # --- judging ---

    def forward(self, query_ids: Tensor, responses: Tensor, mask: Tensor) -> Evaluation:
        """Log-probabilities, entropies and values of given responses, with gradient.

        The query is run once and its key-value cache repeated over the P responses, forward and
        backward: see ``models/prefix.py``.

        Args:
            query_ids: The meta-prompt that was read, (Q,).
            responses: Token ids, right-padded, (P, T).
            mask: True for real tokens, (P, T).
        """
        return self._evaluate(self.model, self.value_heads[Role.POLICY], query_ids, responses, mask)

    @torch.no_grad()
    def evaluate(
        self, query_ids: Tensor, responses: Tensor, mask: Tensor, *, role: Role
    ) -> Evaluation:
        """The same numbers as ``forward``, without gradient, for the policy or the anchor."""
        with self.adapted.role(role) as model:
            return self._evaluate(model, self.value_heads[role], query_ids, responses, mask)

    def _evaluate(
        self, model: nn.Module, head: nn.Module, query_ids: Tensor, responses: Tensor, mask: Tensor
    ) -> Evaluation:
        rows, length = responses.shape
        with head_inputs(self.loaded.model) as hidden:
            first = model(input_ids=query_ids.unsqueeze(0), use_cache=True, logits_to_keep=1)
            logits = first.logits.expand(rows, -1, -1)
            states = hidden.pop()[:, -1:].expand(rows, -1, -1)
            if length > 1:
                seen = mask.new_ones((rows, query_ids.shape[0]))
                later = model(
                    input_ids=responses[:, :-1],
                    attention_mask=torch.cat([seen, mask[:, :-1]], dim=1).long(),
                    past_key_values=repeat_cache(first.past_key_values, rows),
                    use_cache=True,
                )
                logits = torch.cat([logits, later.logits], dim=1)  # (P, T, V)
                states = torch.cat([states, hidden.pop()], dim=1)
        distribution = (logits.float() / self.temperature).log_softmax(dim=-1)
        logprobs = distribution.gather(2, responses.unsqueeze(2)).squeeze(2)
        with torch.no_grad():
            entropies = -(distribution.exp() * distribution).sum(dim=-1)
        values = head(states.float()).squeeze(-1)
        return Evaluation(
            logprobs.where(mask, logprobs.new_zeros(())),
            entropies.where(mask, entropies.new_zeros(())),
            values.where(mask, values.new_zeros(())),
        )

    @torch.no_grad()
    def perplexities(self, texts: Sequence[str]) -> list[float]:
        """Perplexity per token of each text under the base model, as a user's message.

        One text at a time: a text's figure never depends on its neighbours.
        """
        opening = encode_chat(self.tokenizer, [{"role": "user", "content": ""}])
        figures = []
        with self.adapted.role(Role.BASE) as model:
            for text in texts:
                ids = encode_chat(self.tokenizer, [{"role": "user", "content": text}])
                start = _common_length(opening, ids)
                row, _ = right_pad([ids], int(self.tokenizer.pad_token_id), self.loaded.device)
                logprobs = model(input_ids=row).logits[0, :-1].float().log_softmax(dim=-1)
                stop = max(start + 1, len(ids) - _common_length(opening[::-1], ids[::-1]))
                told = logprobs.gather(1, row[0, 1:].unsqueeze(1)).squeeze(1)[start - 1 : stop - 1]
                figures.append(float(told.mean().neg().exp()))
        return figures

    # --- learning, copying, saving ---

    def learned_parameters(self) -> list[nn.Parameter]:
        """What PPO trains, in a fixed order: the policy's adapter and its value head."""
        return [*self.adapted.parameters(), *self.value_heads[Role.POLICY].parameters()]

    @torch.no_grad()
    def copy(self, source: Role, destination: Role) -> None:
        """Copy adapter and value head from one role to the other, by value."""
        self.adapted.copy(source, destination)
        for new, old in zip(
            self.value_heads[destination].parameters(),
            self.value_heads[source].parameters(),
            strict=True,
        ):
            new.copy_(old)

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Adapters off: the shared weights are the target's while this lasts."""
        with self.adapted.role(Role.BASE):
            yield

    def tensors(self) -> dict[str, Tensor]:
        """Adapters and value heads of policy and anchor, for a checkpoint."""
        heads = {f"value/{n}": p.detach().cpu() for n, p in self.value_heads.named_parameters()}
        return self.adapted.state() | heads

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``tensors`` gave."""
        self.adapted.load_state(tensors)
        for name, parameter in self.value_heads.named_parameters():
            parameter.copy_(tensors[f"value/{name}"])


_LEARNERS = (Role.POLICY, Role.ANCHOR)


def _common_length(one: Sequence[int], other: Sequence[int]) -> int:
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length
