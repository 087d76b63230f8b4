"""From messages to one score: by kind, by metric, with every call counted, and asked once."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from stableprompt.config import RewardConfig, TargetConfig
from stableprompt.errors import ModelError
from stableprompt.models.targets.interface import Answers, LabelScores, Usage
from stableprompt.scoring.judge import Judge
from stableprompt.scoring.ledger import Ledger, Purpose
from stableprompt.scoring.scorer import PromptScore, Scorer
from stableprompt.tasks.task import Task
from stableprompt.tasks.templates import TargetTemplate
from tests.fakes.target_stub import TargetStub


class Scripted(TargetStub):
    """Gives the probabilities, or the answers, that it was made with; remembers what it read."""

    name = "scripted"

    def __init__(self, rows: Sequence[Sequence[float]] = (), answers: Sequence[str] = ()) -> None:
        self.rows, self.answers = rows, answers
        self.read: list[list[dict[str, str]]] = []
        self.words: list[tuple[str, ...]] = []
        self.max_tokens = 0

    def label_scores(
        self, conversations: Sequence[Sequence[dict[str, str]]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        self.read += [list(c) for c in conversations]
        self.words += [tuple(given) for given in words]
        return LabelScores(torch.tensor(self.rows), Usage(read=7))

    def generate(
        self, conversations: Sequence[Sequence[dict[str, str]]], max_tokens: int
    ) -> Answers:
        self.read += [list(c) for c in conversations]
        self.max_tokens = max_tokens
        texts = self.answers or [c[-1]["content"] for c in conversations]  # an echo
        return Answers(tuple(texts), Usage(read=9))

    def num_tokens(self, text: str) -> int:
        return len(text.split())

    def markup(self) -> list[str]:
        return []

    def fits(self, conversation: Sequence[dict[str, str]], room: int) -> bool:
        return True


def make_scorer(task: Task, target: Any, **options: Any) -> Scorer:
    answers = TargetConfig(**{"max_answer_tokens": 5, **options.pop("answers", {})})
    return Scorer(
        target,
        options.pop("template", TargetTemplate("system", input_format="{text}")),
        task,
        Ledger(),
        answers=answers,
        reward=RewardConfig(accuracy_weight=2.0, softmax_weight=0.5),
        **options,
    )


SPLITS = ("train", "validation", "test")


def make_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows in each split, told apart by a number."""
    return [
        {**row, "text": f"{row['text']} {split}", "split": split}
        for split in SPLITS
        for row in rows
    ]


def classification(**options: Any) -> Task:
    rows = make_rows(
        [{"text": text, "label": label} for text, label in zip("abcd", "xxyy", strict=True)]
    )
    return Task.from_records(rows, label_words={"x": "no", "y": "yes"}, **options)


def multiple_choice(**options: Any) -> Task:
    rows = make_rows(
        [
            {"text": "q1", "choices": ["red", "blue"], "label": 1},
            {"text": "q2", "choices": ["one", "two", "three"], "label": [0, 2]},
        ]
    )
    return Task.from_records(rows, **options)


def generation(**options: Any) -> Task:
    rows = make_rows([{"text": "6 + 1", "label": ["seven", "7"]}, {"text": "2", "label": ["two"]}])
    return Task.from_records(rows, kind="generation", **options)


PROBS = [[0.75, 0.25], [0.25, 0.75], [0.5, 0.5], [0.0, 1.0]]


def test_classification_by_hand() -> None:
    task, target = classification(), Scripted(PROBS)
    scorer = make_scorer(task, target)
    score = scorer.score("Sort.", task.test, Purpose.TEST)
    # Right, wrong, a tie, right; differences 0.5, -0.5, 0 and 1 have the mean 0.25.
    assert score == PromptScore(
        score=0.5,
        softmax_difference=0.25,
        reward=2.0 * 0.5 + 0.5 * 0.25,
        values=(1.0, 0.0, 0.0, 1.0),
        rewards=(2.0 + 0.25, -0.25, 0.0, 2.0 + 0.5),
        predictions=("x", "y", "", "y"),
    )
    assert target.words == [("no", "yes")] * 4
    assert target.read[0] == [
        {"role": "system", "content": "Sort."},
        {"role": "user", "content": "a test"},
    ]
    assert scorer.ledger.target_calls == {"training": 0, "validation": 0, "test": 4, "curve": 0}
    assert scorer.ledger.target_tokens["test"] == 7


def test_a_metric_of_all_predictions_together() -> None:
    task = classification(metric="balanced_accuracy")
    score = make_scorer(task, Scripted(PROBS[:3])).score("Sort.", task.test[:3], Purpose.TRAINING)
    # Recall of x is 1 of 2, of y 0 of 1.
    assert score.score == 0.25
    assert score.values == (1.0, 0.0, 0.0)
    # What single examples earn knows nothing of that.
    assert score.reward == 2.0 * 0.25 + 0.5 * 0.0
    assert score.rewards == (2.25, -0.25, 0.0)


def test_each_of_several_prompts_has_the_rewards_of_its_own_answers() -> None:
    task = classification()
    first, second = make_scorer(task, Scripted(PROBS)).score_all(
        ["Sort.", "Pick."], task.test[:2], Purpose.TRAINING
    )
    # For "Pick." a tie and wrong: x is the label of both.
    assert first.rewards == (2.0 + 0.25, -0.25)
    assert second.rewards == (0.0, -0.5)
    assert [first.softmax_difference, second.softmax_difference] == [0.0, -0.5]


def test_multiple_choice_asks_for_letters_and_any_right_choice_counts() -> None:
    task = multiple_choice()
    target = Scripted([[0.75, 0.25, 0.0], [0.25, 0.125, 0.625]])
    score = make_scorer(task, target).score("Answer.", task.test, Purpose.TEST)
    assert target.words == [("A", "B"), ("A", "B", "C")]
    assert target.read[1][1]["content"] == "q2 test\nA. one\nB. two\nC. three"
    assert score.predictions == ("A", "C")
    assert score.values == (0.0, 1.0)
    # 0.25 - 0.75 and max(0.25, 0.625) - 0.125
    assert score.softmax_difference == pytest.approx((-0.5 + 0.5) / 2, abs=1e-7)


def test_or_for_the_choices_themselves() -> None:
    task = multiple_choice(choice_style="text")
    target = Scripted([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0]])
    score = make_scorer(task, target).score("Answer.", task.test, Purpose.TEST)
    assert target.words == [("red", "blue"), ("one", "two", "three")]
    assert score.predictions == ("blue", "two")
    assert score.values == (1.0, 0.0)


def test_generation_by_hand() -> None:
    task, target = generation(), Scripted(answers=["The 7.", "three"])
    scorer = make_scorer(task, target)
    score = scorer.score("Add.", task.test, Purpose.VALIDATION)
    assert score == PromptScore(0.5, None, 2.0 * 0.5, (1.0, 0.0), (2.0, 0.0), ("The 7.", "three"))
    assert target.max_tokens == 5
    assert scorer.ledger.target_calls["validation"] == 2
    assert scorer.ledger.target_tokens["validation"] == 9


def test_the_part_of_a_generated_answer_that_counts() -> None:
    task, target = generation(), Scripted(answers=["Hm.\nSo: seven\nyes", "two"])
    scorer = make_scorer(task, target, answers={"answer_after": "So:", "answer_lines": "first"})
    assert scorer.score("Add.", task.test, Purpose.TEST).predictions == ("seven", "")


def test_a_custom_metric() -> None:
    def half(example: Any, prediction: str) -> float:
        return 0.5 if prediction == example.label else 0.0

    task = generation(metric=half)
    score = make_scorer(task, Scripted(answers=["seven", "2"])).score("A.", task.test, Purpose.TEST)
    assert score.values == (0.5, 0.0)
    assert score.rewards == (1.0, 0.0)
    assert score.score == 0.25


@pytest.mark.parametrize("prompt", ["Input: 6 + 1 Output: seven", "Output: two", "seven two 7"])
def test_a_prompt_that_holds_the_answer_scores_nothing_by_itself(prompt: str) -> None:
    task = generation()

    class Silent(Scripted):
        """Answers nothing, whatever it reads."""

        def generate(
            self, conversations: Sequence[Sequence[dict[str, str]]], max_tokens: int
        ) -> Answers:
            return Answers(("",) * len(conversations), Usage(read=0))

    assert make_scorer(task, Silent()).score(prompt, task.test, Purpose.TEST).score == 0.0


def test_a_judge_gives_the_values_and_its_calls_are_counted() -> None:
    task = generation(metric="judge")
    rater = Scripted([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])  # two references, then one
    scorer = make_scorer(task, Scripted(answers=["7", "2"]), judge=Judge(rater, "{reference}"))
    score = scorer.score("Add.", task.test, Purpose.TEST)
    assert score.values == (0.75, 0.25)
    assert score.score == 0.5
    assert (scorer.ledger.judge_calls, scorer.ledger.judge_tokens) == (3, 7)


def test_probabilities_that_are_no_numbers_stop_the_run() -> None:
    task = classification()
    target = Scripted([[float("nan"), 0.0]] * 4)
    with pytest.raises(ModelError, match="'scripted' gave probabilities that are not finite"):
        make_scorer(task, target).score("Sort.", task.test, Purpose.TEST)


# --- several prompts, and pairs that come again ---


class Hashing(Scripted):
    """Answers by all that it reads, the same whatever else is in the batch; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def label_scores(
        self, conversations: Sequence[Sequence[dict[str, str]]], words: Sequence[Sequence[str]]
    ) -> LabelScores:
        self.batches.append(len(conversations))
        self.read += [list(c) for c in conversations]
        width = max(map(len, words))
        rows = []
        for conversation, own in zip(conversations, words, strict=True):
            # Eighths: exact, and equal now and then.
            weights = [1 + zlib.crc32(f"{conversation} {w}".encode()) % 8 for w in own]
            rows.append([w / sum(weights) for w in weights] + [0.0] * (width - len(own)))
        return LabelScores(torch.tensor(rows), Usage(read=10 * len(rows)))

    def generate(
        self, conversations: Sequence[Sequence[dict[str, str]]], max_tokens: int
    ) -> Answers:
        self.batches.append(len(conversations))
        self.read += [list(c) for c in conversations]
        told = (zlib.crc32(str(c).encode()) % 3 for c in conversations)
        texts = tuple(("seven", "Well: two", "")[n] for n in told)
        return Answers(texts, Usage(read=10 * len(texts)))


PROMPTS = ["Sort.", "Think, then sort.", "", "Sort.", "Please."]


@pytest.mark.parametrize("make", [classification, multiple_choice, generation])
def test_several_prompts_together_score_as_each_alone(make: Callable[..., Task]) -> None:
    task = make()
    target = Hashing()
    together = make_scorer(task, target).score_all(PROMPTS, task.test, Purpose.TEST)
    assert target.batches == [4 * len(task.test)]  # one call; the repeated prompt is in it once
    alone = [make_scorer(task, Hashing()).score(p, task.test, Purpose.TEST) for p in PROMPTS]
    assert together == alone
    assert len(set(together)) > 2


def test_no_prompts_no_scores() -> None:
    task = generation()
    assert make_scorer(task, Hashing()).score_all([], task.test, Purpose.TEST) == []


def test_what_each_prompt_gets_where_choices_differ_in_number() -> None:
    task = multiple_choice()
    rows = [[0.75, 0.25, 0.0], [0.25, 0.125, 0.625], [0.25, 0.75, 0.0], [0.5, 0.5, 0.0]]
    scorer = make_scorer(task, Scripted(rows))
    first, second = scorer.score_all(["One.", "Two."], task.test, Purpose.TEST)
    # B is right, then A or C; 0.25 - 0.75 and 0.625 - 0.125.
    assert (first.predictions, first.values) == (("A", "C"), (0.0, 1.0))
    assert first.softmax_difference == pytest.approx((-0.5 + 0.5) / 2, abs=1e-7)
    # 0.75 - 0.25 and, a tie of A with B, 0.5 - 0.5.
    assert (second.predictions, second.values) == (("B", ""), (1.0, 0.0))
    assert second.softmax_difference == pytest.approx((0.5 + 0.0) / 2, abs=1e-7)


def test_the_same_where_a_pair_with_fewer_choices_is_known_already() -> None:
    task = multiple_choice()
    target = Scripted([[0.25, 0.75]])
    scorer = make_scorer(task, target)
    assert scorer.score("Two.", task.test[:1], Purpose.TEST).predictions == ("B",)
    target.rows = [[0.25, 0.125, 0.625]]
    score = scorer.score("Two.", task.test, Purpose.TEST)
    assert (score.predictions, score.values) == (("B", "C"), (1.0, 1.0))
    assert score.softmax_difference == pytest.approx((0.5 + 0.5) / 2, abs=1e-7)


@pytest.mark.parametrize("make", [classification, multiple_choice, generation])
def test_only_what_is_really_asked_is_counted(make: Callable[..., Task]) -> None:
    task, target = make(), Hashing()
    scorer = make_scorer(task, target)
    more = len(task.test) - 1
    first = scorer.score("Sort.", task.test[:1], Purpose.TRAINING)
    assert scorer.ledger.target_calls == {"training": 1, "validation": 0, "test": 0, "curve": 0}
    # One example is known of the first prompt, none of the second.
    both = scorer.score_all(["Sort.", "Other."], task.test, Purpose.VALIDATION)
    asked = {"training": 1, "validation": more + 1 + more, "test": 0, "curve": 0}
    assert scorer.ledger.target_calls == asked
    # Nothing is new, and it is the same for every purpose.
    assert scorer.score_all(["Sort.", "Other."], task.test, Purpose.TEST) == both
    assert scorer.score("Sort.", task.test[:1], Purpose.TEST) == first
    assert scorer.ledger.target_calls == asked
    assert scorer.ledger.target_tokens == {p: 10 * calls for p, calls in asked.items()}
    assert target.batches == [1, 2 * more + 1]
    assert len({str(conversation) for conversation in target.read}) == len(target.read)


def test_words_that_may_be_answered_are_part_of_the_question() -> None:
    task, target = classification(), Hashing()
    scorer = make_scorer(task, target)
    scorer.score("Sort.", task.test, Purpose.TEST)
    for words in ({"x": "bad", "y": "good"}, {"x": "yes", "y": "no"}):
        renamed = Task.from_records(
            [
                {"text": e.text, "label": e.label, "split": s}
                for s in SPLITS
                for e in task.splits.part(s)
            ],  # type: ignore[arg-type]
            label_words=words,
        )
        other = make_scorer(renamed, target)
        other.memo = scorer.memo
        fresh = make_scorer(renamed, Hashing())
        expected = fresh.score("Sort.", renamed.test, Purpose.TEST)
        assert other.score("Sort.", renamed.test, Purpose.TEST) == expected
        assert other.ledger.total_calls == 4


def test_a_restored_memory_answers_for_the_target() -> None:
    for task in (classification(), multiple_choice(), generation()):
        scorer = make_scorer(task, Hashing())
        scores = scorer.score_all(PROMPTS, task.test, Purpose.TEST)
        silent = Hashing()
        new = make_scorer(task, silent)
        new.memo.restore(scorer.memo.take_new())
        assert new.score_all(PROMPTS, task.test, Purpose.TEST) == scores
        assert silent.batches == []
        assert new.ledger.total_calls == new.ledger.total_tokens == 0


def test_what_was_written_is_remembered_whole() -> None:
    # Another reading of the same answers: the memory must not hold what one of them cut out.
    task, target = generation(), Scripted(answers=["Hm.\nSo: seven", "two"])
    scorer = make_scorer(task, target)
    assert scorer.score("Add.", task.test, Purpose.TEST).predictions == ("Hm.\nSo: seven", "two")
    reader = make_scorer(task, Scripted(), answers={"answer_after": "So:"})
    reader.memo = scorer.memo
    assert reader.score("Add.", task.test, Purpose.TEST).predictions == ("seven", "")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_probabilities_that_are_no_numbers_are_neither_remembered_nor_counted(wrong: float) -> None:
    task = classification()
    target = Scripted([*PROBS[:3], [wrong, 0.0]])
    scorer = make_scorer(task, target)
    with pytest.raises(ModelError, match="not finite"):
        scorer.score("Sort.", task.test, Purpose.TEST)
    assert scorer.memo.take_new() == []
    assert scorer.ledger.total_calls == scorer.ledger.total_tokens == 0
    target.rows = PROBS
    assert scorer.score("Sort.", task.test, Purpose.TEST).predictions == ("x", "y", "", "y")
    assert len(target.read) == 8  # all four again
