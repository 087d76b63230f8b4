import subprocess
import sys

import pytest

from stableprompt.errors import ConfigError
from stableprompt.tasks.example import Example, TaskKind
from stableprompt.tasks.metrics.metric import Metric
from stableprompt.tasks.metrics.overlap import _bleu, _chrf, _rouge_scorer
from stableprompt.tasks.metrics.registry import (
    DEFAULT_METRICS,
    METRICS,
    metric_names,
    require_available,
    resolve_metric,
)

CLASSIFICATION, CHOICE, GENERATION = (
    TaskKind.CLASSIFICATION,
    TaskKind.MULTIPLE_CHOICE,
    TaskKind.GENERATION,
)


def test_the_names_for_each_kind() -> None:
    assert metric_names(CLASSIFICATION) == (
        "accuracy",
        "multiple_choice_grade",
        "balanced_accuracy",
        "macro_f1",
    )
    assert metric_names(CHOICE) == ("accuracy", "multiple_choice_grade")
    text = "exact_match token_f1 exact_match_strict contains contains_strict contains_any_case"
    overlap = "sentence_bleu chrf rouge1 rouge2 rougeL"
    induction = "ii_exact_match ii_f1 ii_exact_set ii_contains"
    assert metric_names(GENERATION) == tuple(f"{text} {overlap} {induction} judge".split())


def test_every_name_is_that_of_its_metric() -> None:
    assert all(name == metric.name for name, metric in METRICS.items())


def test_the_judge_has_no_value_of_its_own() -> None:
    require_available(METRICS["judge"])
    with pytest.raises(AssertionError, match="'judge' come from a model"):
        METRICS["judge"].value(Example("text", "label"), "prediction")


def test_each_kind_has_a_default_that_fits() -> None:
    assert DEFAULT_METRICS == {
        CLASSIFICATION: "accuracy",
        CHOICE: "accuracy",
        GENERATION: "exact_match",
    }
    for kind, name in DEFAULT_METRICS.items():
        assert resolve_metric(name, kind) is METRICS[name]


def test_an_unknown_name_gets_the_closest_that_fits_and_the_list() -> None:
    with pytest.raises(ConfigError) as refusal:
        resolve_metric("exactmatch", GENERATION)
    message = str(refusal.value)
    assert message.startswith("unknown metric 'exactmatch': did you mean 'exact_match'? ")
    assert "generation tasks take 'exact_match', 'token_f1'," in message
    assert "'accuracy'" not in message
    with pytest.raises(ConfigError, match="unknown metric 'zzz': classification tasks take"):
        resolve_metric("zzz", CLASSIFICATION)


@pytest.mark.parametrize(
    ("name", "kind", "scores"),
    [
        ("accuracy", GENERATION, "scores classification and multiple_choice tasks, found a gen"),
        ("macro_f1", CHOICE, "scores classification tasks, found a multiple_choice task"),
        ("rougeL", CLASSIFICATION, "scores generation tasks, found a classification task"),
    ],
)
def test_a_metric_of_another_kind_is_refused(name: str, kind: TaskKind, scores: str) -> None:
    with pytest.raises(ConfigError, match=f"metric '{name}' {scores}.* tasks take "):
        resolve_metric(name, kind)


@pytest.mark.parametrize("kind", list(TaskKind))
def test_a_function_becomes_a_metric_of_any_kind(kind: TaskKind) -> None:
    def is_short(example: Example, prediction: str) -> bool:
        return len(prediction) < 5

    metric = resolve_metric(is_short, kind)
    assert metric.name == "is_short"
    assert metric.value(Example("text", "label"), "long answer") == 0
    require_available(metric)


def test_a_function_with_the_name_of_a_built_in_metric_is_refused() -> None:
    def accuracy(example: Example, prediction: str) -> float:
        return 1.0

    with pytest.raises(ConfigError, match="'accuracy' has the name of a built-in metric"):
        resolve_metric(accuracy, CLASSIFICATION)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("sentence_bleu", "sacrebleu", "sacrebleu"),
        ("chrf", "sacrebleu", "sacrebleu"),
        ("rouge1", "rouge_score", "rouge-score"),
        ("rouge2", "rouge_score", "rouge-score"),
        ("rougeL", "rouge_score", "rouge-score"),
    ],
)
def test_a_missing_package_is_named_before_and_at_the_first_use(
    name: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_available(METRICS[name])
    for loaded in [m for m in sys.modules if m.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    for cached in (_bleu, _chrf, _rouge_scorer):
        cached.cache_clear()
    message = rf"metric '{name}' needs {package}: pip install 'stableprompt\[metrics\]'"
    with pytest.raises(ConfigError, match=message):
        require_available(METRICS[name])
    with pytest.raises(ConfigError, match=message):
        METRICS[name].value(Example("text", "cat"), "cat")
    # A metric that only shares the name needs nothing.
    require_available(Metric(name, lambda example, prediction: 0.0, frozenset(TaskKind)))


def test_other_metrics_need_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sacrebleu", "rouge_score"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in ("accuracy", "macro_f1", "exact_match", "ii_f1"):
        require_available(METRICS[name])


def test_the_names_are_known_without_importing_the_packages() -> None:
    code = (
        "import sys, stableprompt.tasks.metrics.registry, stableprompt.tasks.statistics\n"
        "heavy = {'sacrebleu', 'rouge_score', 'nltk', 'sklearn', 'torch', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
