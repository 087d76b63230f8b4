"""The agent: reads a meta-prompt, writes prompts, and says how likely each token was."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache

from stableprompt.models.adapters import AdaptedModel, Role
from stableprompt.models.chat import Message, encode_answer, encode_chat
from stableprompt.models.head import Head, next_token
from stableprompt.models.likelihood import Likelihood, continues_exactly
from stableprompt.models.loading import LoadedModel
from stableprompt.models.memory import halve_when_full
from stableprompt.models.prefix import repeat_cache, right_pad
from stableprompt.models.responses import Evaluation, OnEnd, Responses, Surprisal
from stableprompt.models.surprisal import read_surprisals
from stableprompt.models.tails import Tails, apart, left_pad, positions, read_tails

_Ended = Callable[[list[int], Tensor], None] | None  # rows, and their token ids


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
        self.head = Head(loaded.model)
        self._likelihood = Likelihood(loaded, max_batch_tokens=_BATCH_TOKENS)
        hidden = loaded.model.get_output_embeddings().weight.shape[1]
        # Zero at first: an untrained head must not invent returns.
        self.value_heads = nn.ModuleDict({r: nn.Linear(hidden, 1) for r in _LEARNERS})
        for head in self.value_heads.values():
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        self.value_heads.to(loaded.device)
        self.value_heads[Role.ANCHOR].requires_grad_(False)

    @property
    def _body(self) -> Any:
        """All layers but the head; the adapters are inside."""
        return self.loaded.model.base_model

    @cached_property
    def _shares(self) -> bool:
        with self.adapted.role(Role.BASE):
            return continues_exactly(self.loaded)

    # --- writing ---

    def query_ids(self, messages: Sequence[Message]) -> Tensor:
        """Token ids of a meta-prompt, (Q,)."""
        ids = encode_chat(self.tokenizer, messages)
        return torch.tensor(ids, dtype=torch.long, device=self.loaded.device)

    @torch.no_grad()
    def sample(
        self,
        query_ids: Tensor,
        uniforms: Tensor,
        *,
        role: Role = Role.POLICY,
        tails: Tails = (),
        greedy: bool = False,
        on_end: OnEnd | None = None,
    ) -> Responses:
        """Write one prompt for each row of random numbers.

        Each row is sampled with noise that follows from its own numbers: the same numbers give the
        same prompt whatever else is in the batch, and nearly equal policies mostly the same one, so
        that policy and anchor are compared on common random numbers.

        Args:
            query_ids: The meta-prompt, (Q,).
            uniforms: Numbers in [0, 1), float64, (P, T); T is the length cap.
            role: Who writes.
            tails: What each row reads behind the meta-prompt; () where that is all.
            greedy: Take the most probable token instead; the numbers say how many alone.
            on_end: Told of rows that end before others do.
        """

        def write(rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
            own = [tails[row] for row in rows] if tails else ()

            def ended(which: list[int], ids: Tensor) -> None:
                if on_end is not None:
                    on_end([rows[n] for n in which], self._decoded(ids))

            return self._sample(query_ids, uniforms[rows], own, greedy, ended if on_end else None)

        with self.adapted.role(role):
            parts = halve_when_full(range(len(uniforms)), write)
            ids, mask, running = map(torch.cat, zip(*parts, strict=True))
        used = int(mask.sum(dim=1).max())
        return Responses(
            ids[:, :used],
            mask[:, :used],
            self._decoded(ids[:, :used]),
            tuple(bool(cut) for cut in running.tolist()),
        )

    def _decoded(self, ids: Tensor) -> tuple[str, ...]:
        return tuple(map(str.strip, self.tokenizer.batch_decode(ids, skip_special_tokens=True)))

    def _sample(
        self, query_ids: Tensor, uniforms: Tensor, tails: Tails, greedy: bool, ended: _Ended = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids and mask, (P, T) each, and which rows had not ended, (P,)."""
        if tails and not self._continues:
            found = apart(
                query_ids, tails, lambda q, rows: self._sample(q, uniforms[rows], (), greedy)
            )
            return found[0], found[1], found[2]
        rows, limit = uniforms.shape
        end_ids = torch.tensor(self.loaded.end_of_turn_ids, device=query_ids.device)
        pad_id = int(self.tokenizer.pad_token_id)
        ids = torch.full((rows, limit), pad_id, device=query_ids.device)
        mask = torch.zeros((rows, limit), dtype=torch.bool, device=query_ids.device)
        running = torch.ones(rows, dtype=torch.bool, device=query_ids.device)
        room = limit - 1 + max(map(len, tails), default=0)
        states, cache = self._read_query(query_ids, rows, room=room)
        seen = torch.ones((rows, len(query_ids)), dtype=torch.bool, device=query_ids.device)
        if tails:
            states, seen = read_tails(self._body, pad_id, tails, seen, cache)
        for t in range(limit):
            logits = self.head.logits(states)
            token = next_token(logits, None if greedy else uniforms[:, t], self.temperature)
            ids[:, t] = torch.where(running, token, ids[:, t])
            mask[:, t] = running
            stopped = running & torch.isin(token, end_ids)
            running = running & ~stopped
            if ended is not None and (which := stopped.nonzero().flatten().tolist()):
                ended(which, ids[which, : t + 1])
            if t + 1 == limit or not running.any():
                break
            if cache is None:
                whole = torch.cat([query_ids.expand(rows, -1), ids[:, : t + 1]], dim=1)
                out = self._body(whole, use_cache=False)
            else:
                at = self._at(len(query_ids) + t, 1)
                if tails:
                    seen = pad(seen, (0, 1), value=True)
                    at = {"position_ids": positions(seen)[:, -1:], "attention_mask": seen.long()}
                out = self._body(token.unsqueeze(1), past_key_values=cache, use_cache=True, **at)
            states = out.last_hidden_state[:, -1]
        return ids, mask, running

    @cached_property
    def _continues(self) -> bool:
        """Whether rows of unequal length can go on behind one beginning."""
        return self._shares and self._takes_positions

    @property
    def _takes_positions(self) -> bool:
        return "position_ids" in inspect.signature(self._body.forward).parameters

    def _read_query(self, query_ids: Tensor, rows: int, room: int) -> tuple[Tensor, Any]:
        """The last state of each row, (P, H), and a cache with room for what is written.

        None where the architecture has a cache of another kind (Mamba): what was read is read
        again for each token.
        """
        if not self._shares:
            out = self._body(query_ids.expand(rows, -1), use_cache=True)
            return out.last_hidden_state[:, -1], getattr(out, "past_key_values", None)
        out = self._body(query_ids.unsqueeze(0), past_key_values=DynamicCache(), use_cache=True)
        cache = repeat_cache(out.past_key_values, rows, room=room)
        return out.last_hidden_state[:, -1].expand(rows, -1), cache

    def _at(self, start: int, length: int) -> dict[str, Tensor]:
        """Positions, where they are taken: some architectures count from 0 behind a cache, too."""
        if not self._takes_positions:
            return {}
        places = torch.arange(start, start + length, device=self.loaded.device)
        return {"position_ids": places.unsqueeze(0)}

    def append(self, ids: Tensor, mask: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Add prompts that are known as texts to responses, as rows of their own.

        Args:
            ids: Token ids of the responses, right-padded, (P, T).
            mask: True for their real tokens, (P, T).
            prompts: Texts; each is followed by the end of the turn.
        """
        end = self.loaded.end_of_turn_ids[0]
        rows = [[*encode_answer(self.tokenizer, prompt), end] for prompt in prompts]
        added, real = right_pad(rows, int(self.tokenizer.pad_token_id), ids.device)
        width = max(ids.shape[1], added.shape[1])
        padded = [pad(part, (0, width - part.shape[1])) for part in (ids, added)]
        masks = [pad(part, (0, width - part.shape[1])) for part in (mask, real.bool())]
        return torch.cat(padded), torch.cat(masks)

    # --- judging ---

    def forward(
        self, query_ids: Tensor, responses: Tensor, mask: Tensor, tails: Tails = ()
    ) -> Evaluation:
        """Log-probabilities, entropies and values of given responses, with gradient.

        Args:
            query_ids: The meta-prompt that was read, (Q,).
            responses: Token ids, right-padded, (P, T).
            mask: True for real tokens, (P, T).
            tails: What each row read behind the meta-prompt; () where that was all.
        """
        return self._evaluate(Role.POLICY, query_ids, responses, mask, tails)

    @torch.no_grad()
    def evaluate(
        self, query_ids: Tensor, responses: Tensor, mask: Tensor, tails: Tails = (), *, role: Role
    ) -> Evaluation:
        """The same numbers as ``forward``, without gradient, for the policy or the anchor."""

        def judge(rows: Sequence[int]) -> Evaluation:
            own = [tails[row] for row in rows] if tails else ()
            return self._evaluate(role, query_ids, responses[rows], mask[rows], own)

        with self.adapted.role(role):
            parts = halve_when_full(range(len(responses)), judge)
            figures = [(part.logprobs, part.entropies, part.values) for part in parts]
        return Evaluation(*map(torch.cat, zip(*figures, strict=True)))

    def _evaluate(
        self, role: Role, query_ids: Tensor, responses: Tensor, mask: Tensor, tails: Tails
    ) -> Evaluation:
        states = self._states(query_ids, responses, mask, tails)[mask]  # (K, H), real tokens alone
        logprobs, entropies = self.head.told(states, responses[mask], temperature=self.temperature)
        values = self.value_heads[role](states.float()).squeeze(-1)
        zeros = torch.zeros(mask.shape, device=mask.device)
        return Evaluation(
            *(zeros.masked_scatter(mask, told) for told in (logprobs, entropies, values))
        )

    def _states(self, query_ids: Tensor, responses: Tensor, mask: Tensor, tails: Tails) -> Tensor:
        """The last hidden states before each token, (P, T, H).

        The query is run once, and its keys and values repeated over the rows: forward and
        backward, its activations exist once.
        """
        if tails and not self._continues:
            [states] = apart(
                query_ids,
                tails,
                lambda q, rows: (self._states(q, responses[rows], mask[rows], ()),),
            )
            return states
        body = self._body
        rows, length = responses.shape
        query = query_ids.unsqueeze(0)
        if not self._shares:
            ids = torch.cat([query.expand(rows, -1), responses[:, :-1]], dim=1)
            seen = torch.cat([mask.new_ones((rows, query.shape[1])), mask[:, :-1]], dim=1).long()
            out = body(input_ids=ids, attention_mask=seen, use_cache=False)
            return out.last_hidden_state[:, -length:]  # type: ignore[no-any-return]
        first = body(input_ids=query, past_key_values=DynamicCache(), use_cache=True)
        seen = mask.new_ones((rows, query.shape[1]))
        if tails:
            ids, real = left_pad(tails, int(self.tokenizer.pad_token_id), mask.device)
            seen = torch.cat([seen, real, mask[:, :-1]], dim=1)
            out = body(
                input_ids=torch.cat([ids, responses[:, :-1]], dim=1),
                attention_mask=seen.long(),
                position_ids=positions(seen)[:, query.shape[1] :],
                past_key_values=repeat_cache(first.past_key_values, rows),
                use_cache=True,
            )
            return out.last_hidden_state[:, -length:]  # type: ignore[no-any-return]
        last = first.last_hidden_state[:, -1:].expand(rows, -1, -1)
        if length == 1:
            return last  # type: ignore[no-any-return]
        later = body(
            input_ids=responses[:, :-1],
            attention_mask=torch.cat([seen, mask[:, :-1]], dim=1).long(),
            past_key_values=repeat_cache(first.past_key_values, rows),
            use_cache=True,
            **self._at(query.shape[1], length - 1),
        )
        return torch.cat([last, later.last_hidden_state], dim=1)

    @torch.no_grad()
    def surprisals(self, texts: Sequence[str]) -> list[Surprisal]:
        """How unlikely each text is under the base model, as a user's message.

        One text at a time: a text's figure never depends on its neighbours.
        """
        with self.adapted.role(Role.BASE):
            return list(read_surprisals(self.tokenizer, self._likelihood, texts))

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

    def equal(self, one: Role, other: Role) -> bool:
        """Whether two roles have the very same adapter and value head."""
        pairs = zip(
            self.value_heads[one].parameters(), self.value_heads[other].parameters(), strict=True
        )
        return self.adapted.equal(one, other) and all(torch.equal(a, b) for a, b in pairs)

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
_BATCH_TOKENS = 4096  # of one batch of texts whose perplexity is measured
