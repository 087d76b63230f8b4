"""Sections that score: against the naive loop, against bucketed batches, and how both grow."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.bench import Bench
from benchmarks.measure import Contestant, forward_flops, summary, take_turns, timed
from benchmarks.naive import BATCH_SIZE, bucketed_scoring, naive_scoring, needed, padded_tokens
from benchmarks.session import score_afresh
from benchmarks.workload import MORE_PROMPTS, PROMPTS, answer_ids, of_length, plain_ids
from stableprompt.models.loading import LoadedModel
from stableprompt.models.targets.local import LocalTarget
from stableprompt.tasks.example import Example

Prompts = Sequence[str]
Examples = Sequence[Example]

SAME = 1e-4  # of a probability: float32 sums in another order
FEW_PROMPTS, FEW_EXAMPLES = 2, 8  # where bfloat16 is only imitated
SIZES = ((128, 4), (256, 8))  # hidden size and layers of models with random weights


def scoring(bench: Bench) -> None:
    """Naive against ours at equal precision; also bfloat16, where the machine multiplies it."""
    prompts, examples = bench.workload.prompts, bench.workload.examples
    bench.results["workload"] = facts(bench, prompts, examples)
    also = ["ours_bf16"] if _bf16(bench) == "fast" else []
    runs = _contestants(bench, prompts, examples, ["naive", "ours", *also])
    timings = bench.rounds_of("scoring", runs)
    naive, ours = timings.seconds["naive"], timings.seconds["ours"]
    size = f"{len(prompts)} prompts x {len(examples)} examples"
    name = "scoring_fp32_vs_naive"
    if bench.dtype != torch.float32:
        name = "scoring_bf16_vs_naive_bf16"
    bench.ratio(name, naive, ours, f"{size}, equal precision: naive loop / ours")
    _utilisation(bench, name, prompts, examples, naive, ours)
    table = label_probs(bench, bench.target(), prompts, examples)
    gap = float((table - timings.results["naive"]).abs().max())
    bench.check("label probabilities, naive and ours", gap, _allowed(bench))
    if also:
        quick = timings.seconds["ours_bf16"]
        bench.ratio(
            "scoring_bf16_vs_naive",
            naive,
            quick,
            f"{size}: naive loop in fp32 / ours with the target in bf16",
        )
        _limit(bench, "scoring_bf16_vs_naive", prompts, examples, naive, torch.bfloat16)
        _agreement(bench, table, prompts, examples)


def bf16(bench: Bench) -> None:
    """The same in bfloat16 on a part of the workload, where the machine only imitates it."""
    if _bf16(bench) != "slow":
        return
    prompts = bench.workload.prompts[:FEW_PROMPTS]
    examples = bench.workload.examples[: FEW_EXAMPLES // (1 + bench.quick)]
    runs = _contestants(bench, prompts, examples, ["naive", "ours_bf16"])
    timings = bench.rounds_of("bf16", runs)
    bench.ratio(
        "scoring_bf16_vs_naive",
        timings.seconds["naive"],
        timings.seconds["ours_bf16"],
        f"{len(prompts)} prompts x {len(examples)} examples only, as this machine has no bf16 in "
        "hardware: naive loop in fp32 / ours with the target in bf16",
    )
    naive = timings.seconds["naive"]
    _limit(bench, "scoring_bf16_vs_naive", prompts, examples, naive, torch.bfloat16)
    _agreement(bench, timings.results["naive"], prompts, examples)


def long_prompts(bench: Bench) -> None:
    """Bucketed batches against ours, where the instruction is longer than the input."""
    prompts, examples = bench.workload.long_prompts, bench.workload.long_examples
    runs = _contestants(bench, prompts, examples, ["bucketed", "ours"])
    timings = bench.rounds_of("long", runs)
    bench.results["workload_long"] = facts(bench, prompts, examples)
    name = "scoring_vs_bucketed_long_prompt"
    bucketed = timings.seconds["bucketed"]
    bench.ratio(
        name,
        bucketed,
        timings.seconds["ours"],
        f"{len(prompts)} prompts of 150-250 tokens x {len(examples)} examples: batches by length, "
        "needed logits alone / ours",
    )
    _limit(bench, name, prompts, examples, bucketed, bench.dtype)
    table = label_probs(bench, bench.target(), prompts, examples)
    gap = float((table - timings.results["bucketed"]).abs().max())
    bench.check("label probabilities, bucketed and ours", gap, _allowed(bench))


def growth(bench: Bench) -> None:
    """How both grow with prompts, examples, length and model; few rounds."""
    many = (*PROMPTS, *MORE_PROMPTS)
    pool, loaded = bench.workload.task.train, bench.model()
    num_prompts, num_examples = ((2, 4), (8, 32)) if bench.quick else ((2, 4, 8, 16), (8, 32, 128))
    rows = [("prompts", p, many[:p], pool[:8], loaded) for p in num_prompts]
    rows += [("examples", n, many[:2], pool[:n], loaded) for n in num_examples]
    for length in (20, 60, 200):
        same_length = [of_length(loaded.tokenizer, length, v) for v in range(4)]
        rows.append(("prompt_tokens", length, same_length, pool[:8], loaded))
    for hidden, layers in SIZES:
        model = random_model(bench, hidden, layers)
        rows.append(("model", model.name, many[:4], pool[:8], model))
    found: dict[str, list[dict[str, Any]]] = {}
    for over, value, prompts, examples, model in rows:
        bench.say(f"growth: {over} {value}")
        found.setdefault(over, []).append({over: value, **_point(bench, model, prompts, examples)})
    found["model"].append({"model": bench.model_name})
    found["model"][-1] |= {k: v for k, v in found["prompts"][1].items() if k != "prompts"}
    bench.results["growth"] = {
        "what": "one round each; the naive loop is timed on some of the pairs and scaled by its "
        "padded tokens (its batches know nothing of each other); 8 examples, 2 prompts where "
        "examples vary, 4 where length or model does",
        **found,
    }


# --- contestants ---


def _contestants(
    bench: Bench, prompts: Prompts, examples: Examples, names: Sequence[str]
) -> dict[str, Contestant]:
    workload = bench.workload
    blocks = workload.conversations(prompts, examples)
    loaded = bench.model()
    few = workload.conversations(prompts[:1], examples[:BATCH_SIZE])

    def ours(dtype: torch.dtype) -> Contestant:
        target = bench.target(dtype)
        _warm_up(bench, target)
        tokenizer = bench.model(dtype).tokenizer
        return lambda: score_afresh(workload, target, tokenizer, prompts, examples)

    limit = workload.config.target.max_batch_tokens
    known: dict[str, Any] = {
        "naive": lambda: (
            lambda: naive_scoring(loaded.model, loaded.tokenizer, blocks, workload.words)
        ),
        "bucketed": lambda: (
            lambda: bucketed_scoring(
                loaded.model, loaded.tokenizer, blocks, workload.words, max_batch_tokens=limit
            )
        ),
    }
    naive_scoring(loaded.model, loaded.tokenizer, few, workload.words)  # warm
    dtypes = {"ours": bench.dtype, "ours_bf16": torch.bfloat16}
    return {name: ours(dtypes[name]) if name in dtypes else known[name] for name in names}


def _warm_up(bench: Bench, target: LocalTarget) -> None:
    """What a target does once in its life, such as checking itself, is not the loop's time."""
    words = [bench.workload.words] * 2
    messages = [[{"role": "user", "content": f"Warm up, {n}."}] for n in ("one", "two")]
    target.label_scores(messages, words)


def _bf16(bench: Bench) -> str:
    """Whether there is anything to compare in bfloat16, and whether it is done in hardware."""
    if bench.dtype != torch.float32:
        return "none"
    fast = bench.ceiling(torch.bfloat16) > 0.5 * bench.ceiling(torch.float32)
    return "fast" if fast else "slow"


def label_probs(bench: Bench, target: LocalTarget, prompts: Prompts, examples: Examples) -> Tensor:
    """Ours, prompt by prompt, (P * N, C)."""
    blocks = bench.workload.conversations(prompts, examples)
    conversations = [c for block in blocks for c in block]
    words = [bench.workload.words] * len(conversations)
    return target.label_scores(conversations, words).label_probs


# --- figures ---


def facts(bench: Bench, prompts: Prompts, examples: Examples) -> dict[str, Any]:
    """What is scored, in tokens."""
    workload, tokenizer = bench.workload, bench.model().tokenizer
    blocks, answers, (tokens, positions) = _needs(bench, prompts, examples)

    def lengths(texts: Sequence[str]) -> dict[str, float]:
        return summary([len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts])

    return {
        "task": workload.task.name,
        "model": bench.model_name,
        "parameters": bench.model().model.num_parameters(),
        "prompts": len(prompts),
        "examples": len(examples),
        "words": list(workload.words),
        "prompt_tokens": lengths(prompts),
        "example_tokens": lengths([example.text for example in examples]),
        "necessary_tokens": tokens,
        "necessary_logits": positions,
        "naive_padded_tokens": padded_tokens(blocks, answers),
        "real_tokens": sum(len(ids) for block in blocks for ids in block),
        "max_batch_tokens": workload.config.target.max_batch_tokens,
    }


def _needs(
    bench: Bench, prompts: Prompts, examples: Examples
) -> tuple[list[list[list[int]]], list[list[int]], tuple[int, int]]:
    """Contexts by prompt, the answers, and what must be read of them."""
    tokenizer = bench.model().tokenizer
    blocks = [
        plain_ids(tokenizer, block) for block in bench.workload.conversations(prompts, examples)
    ]
    answers = answer_ids(tokenizer, bench.workload.words)
    return blocks, answers, needed([ids for block in blocks for ids in block], answers)


def _utilisation(
    bench: Bench,
    name: str,
    prompts: Prompts,
    examples: Examples,
    naive: list[float],
    ours: list[float],
) -> None:
    _, _, (tokens, positions) = _needs(bench, prompts, examples)
    flops = forward_flops(bench.model().model, tokens=tokens, positions=positions)
    bench.measure_ceiling(bench.dtype)
    shares = [flops / seconds / bench.ceiling() for seconds in ours]
    bench.note(
        "mfu",
        {
            **summary(shares),
            "unit": "of the ceiling",
            "what": "FLOPs of the necessary tokens / (our seconds x FLOP/s of a large matrix "
            "multiply in the same precision)",
            "layers_alone": bench.layers_alone / bench.ceiling(),
            "layers_alone_what": "the model's linear layers by themselves, in batches of "
            "max_batch_tokens, as a share of the same ceiling",
        },
    )
    _limit(bench, name, prompts, examples, naive, bench.dtype)
    pairs = len(prompts) * len(examples)
    bench.results["throughput"] = {
        "pairs_per_second": summary([pairs / s for s in ours]),
        "naive_pairs_per_second": summary([pairs / s for s in naive]),
        "necessary_tokens_per_second": summary([tokens / s for s in ours]),
    }


def _limit(
    bench: Bench,
    name: str,
    prompts: Prompts,
    examples: Examples,
    control: list[float],
    dtype: torch.dtype,
) -> None:
    """What the ratio would be if only what is necessary were done, at the machine's ceiling."""
    _, _, (tokens, positions) = _needs(bench, prompts, examples)
    flops = forward_flops(bench.model().model, tokens=tokens, positions=positions)
    bench.results.setdefault("limits", {})[name] = {
        "at_best": summary(control)["median"] / (flops / bench.ceiling(dtype)),
        "necessary_gflop": flops / 1e9,
        "ceiling_gflops": bench.ceiling(dtype) / 1e9,
    }


def _agreement(bench: Bench, table: Tensor, prompts: Prompts, examples: Examples) -> None:
    coarse = label_probs(bench, bench.target(torch.bfloat16), prompts, examples)
    same = (coarse.argmax(dim=1) == table.argmax(dim=1)).double().mean()
    bench.results["scoring_bf16_vs_naive"] |= {
        "label_agreement": float(same),
        "labels_compared": len(table),
        "largest_difference_of_probability": float((coarse - table).abs().max()),
    }


def _allowed(bench: Bench) -> float:
    return SAME if bench.dtype == torch.float32 else 0.1


# --- growth ---


def _point(
    bench: Bench, loaded: LoadedModel, prompts: Prompts, examples: Examples
) -> dict[str, Any]:
    workload, tokenizer = bench.workload, loaded.tokenizer
    target = LocalTarget(loaded, max_batch_tokens=workload.config.target.max_batch_tokens)
    _warm_up(bench, target)
    run = take_turns(
        {"ours": lambda: score_afresh(workload, target, tokenizer, prompts, examples)},
        rounds=1,
        device=bench.device,
    )
    few = workload.conversations(prompts[:2], examples[:8])
    naive, _ = timed(
        lambda: naive_scoring(loaded.model, tokenizer, few, workload.words), bench.device
    )
    blocks, answers, (tokens, positions) = _needs(bench, prompts, examples)
    part = padded_tokens([plain_ids(tokenizer, block) for block in few], answers)
    seconds = naive * padded_tokens(blocks, answers) / part
    [ours] = run.seconds["ours"]
    return {
        "naive_seconds": seconds,
        "ours_seconds": ours,
        "ratio": seconds / ours,
        "necessary_tokens": tokens,
        "utilisation": forward_flops(loaded.model, tokens=tokens, positions=positions)
        / (ours * bench.ceiling()),
    }


def random_model(bench: Bench, hidden: int, layers: int) -> LoadedModel:
    """A Llama with random weights and the target's tokenizer."""
    tokenizer = bench.model().tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model = model.to(bench.device, bench.dtype).eval().requires_grad_(False)
    name = f"random, hidden size {hidden}, {layers} layers"
    return LoadedModel(name, model, tokenizer, bench.device)
