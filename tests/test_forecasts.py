"""``benchmarks/forecasts.py``: its figures are what it says they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import forecasts
from benchmarks.forecasts import Fit, Pool

STEPS, PROMPTS, EXAMPLES = 4, 16, 8


def content(luck: float = 0.0) -> dict[str, Any]:
    """A run in which prompts with the word "exactly" earn 1 and the others 0, luck aside; each step
    has examples of its own."""
    random = np.random.default_rng(0)
    words = [str(number) for number in random.permutation(10_000)]
    groups, seen = {"seed": 0}, [[[e, 0.0] for e in range(STEPS * EXAMPLES)]]
    for step in range(STEPS):
        for place in range(PROMPTS):
            good = place % 2
            groups[f"Say {words.pop()} {'exactly' if good else 'maybe'} {words.pop()}."] = step
            earned = good + luck * random.normal(size=EXAMPLES)
            examples = range(step * EXAMPLES, (step + 1) * EXAMPLES)
            seen.append([[e, float(r)] for e, r in zip(examples, earned, strict=True)])
    return {"groups": groups, "seen": seen}


def correlation(fit: Fit) -> float:
    return float(str(fit).split()[1].rstrip(","))


def test_a_fit_of_two_steps_by_hand() -> None:
    fit = Fit()
    fit.add(np.array([1.0, 2.0, 3.0]), np.array([12.0, 14.0, 16.0]))
    assert str(fit) == "correlation 1.00, slope 2.00, 1 steps"
    # Products 4 - 2, squares of what was said 2 + 2, of what was earned 8 + 2: 2 / root 40.
    fit.add(np.array([5.0, 6.0, 7.0]), np.array([4.0, 3.0, 2.0]))
    assert str(fit) == "correlation 0.32, slope 0.50, 2 steps"


def test_who_says_the_same_of_all_says_nothing() -> None:
    fit = Fit()
    fit.add(np.ones(3), np.array([1.0, 2.0, 3.0]))
    assert str(fit) == "nothing to say"


def test_steps_have_their_own_prompts_and_examples() -> None:
    found = list(Pool(content()).steps())
    assert [step for step, _, _ in found] == [0, 1, 2, 3]
    _, own, common = found[2]
    assert own == list(range(1 + 2 * PROMPTS, 1 + 3 * PROMPTS))
    assert sorted(common) == list(range(2 * EXAMPLES, 3 * EXAMPLES))


def test_what_the_first_policy_wrote_later_is_of_its_step() -> None:
    made = content()
    prompts = list(made["groups"])
    made["steps"] = dict(made["groups"])
    for prompt in prompts[1 + 2 * PROMPTS : 1 + 2 * PROMPTS + 8]:
        made["groups"][prompt] = 0  # in step 2
    pool = Pool(made)
    _, own, _ = list(pool.steps())[2]
    assert len(own) == PROMPTS
    assert sorted(set(pool.tables(own))) == [0, 1]
    ratings, rewards, ahead = Fit(), Fit(), Fit()
    forecasts.as_rewards(pool, ratings, rewards)
    forecasts.forecast(pool, ahead)
    assert str(rewards) == f"correlation 1.00, slope 1.00, {STEPS} steps"
    assert correlation(ratings) == pytest.approx(1, abs=0.02)
    assert forecasts.reliability([pool]) == pytest.approx(1, abs=0.01)


def test_without_luck_half_of_the_examples_says_it_all() -> None:
    fits = [Fit() for _ in range(4)]
    pool = Pool(content())
    forecasts.as_rewards(pool, *fits[:2])
    forecasts.held_out(pool, *fits[2:])
    assert [correlation(fit) for fit in fits] == pytest.approx([1] * 4, abs=0.02)
    assert str(fits[1]) == f"correlation 1.00, slope 1.00, {STEPS} steps"
    assert forecasts.reliability([pool]) == pytest.approx(1, abs=0.01)


def test_with_luck_a_common_word_helps_whoever_knows_of_it() -> None:
    pool = Pool(content(luck=2.0))
    ratings, rewards, with_traits, without, ahead = (Fit() for _ in range(5))
    forecasts.as_rewards(pool, ratings, rewards)
    forecasts.held_out(pool, with_traits, without)
    forecasts.forecast(pool, ahead)
    assert correlation(ratings) > correlation(rewards) + 0.05
    assert correlation(with_traits) > correlation(without) + 0.05
    assert correlation(ahead) > 0.3
    assert 0.05 < forecasts.reliability([pool]) < 0.6  # 1/4 is real, of luck 4/8 is left


def test_the_newest_state_of_each_run_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, pool in (("000001", {}), ("000004", content())):
        folder = tmp_path / "run" / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"pool": pool}), encoding="utf-8")
    (tmp_path / "begun").mkdir()
    forecasts.main([str(tmp_path / "run"), str(tmp_path / "begun")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 runs; ceiling 1.00"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "forecast of a step from those before it",
        "as rewards, ratings",
        "as rewards, what the step earned",
        "held out, ratings with traits",
        "held out, ratings without",
    ]
