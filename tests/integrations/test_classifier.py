"""A prompt as a classifier of scikit-learn."""

import json
import os
import pickle
import unittest
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import sklearn.exceptions
from sklearn.base import clone, is_classifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted

from stableprompt import PromptClassifier, speakers
from stableprompt.errors import ConfigError, DataError, TargetError
from tests.fakes.word_agent import ScriptedTarget
from tests.tuning.conftest import TINY

SHORT = {name: value for name, value in TINY.items() if name not in ("steps", "agent")}
COLOURS = ("red", "green")
X = [f"{COLOURS[n % 2]} thing number {n}" for n in range(48)]
y = [n % 2 + 3 for n in range(48)]  # 3 is red, 4 is green
WORDS = {3: "red", 4: "green"}

ALL_CHECKS = os.environ.get("STABLEPROMPT_SKLEARN_CHECKS") == "1"

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def answer(messages: list[dict[str, str]]) -> str:
    """The colour that is last named; not at all where the text says so."""
    said = " ".join(message["content"] for message in messages).split("silent")
    words = [w for w in said[0].replace(",", " ").split() if w in COLOURS]
    return words[-1] if words and len(said) == 1 else "I cannot say"


def make(**arguments: Any) -> PromptClassifier:
    given = {"target": answer, "method": "seed", "label_words": WORDS, "settings": SHORT}
    given["agent"] = TINY["agent"]
    return PromptClassifier(**{**given, **arguments})


def test_it_finds_a_prompt_and_predicts_with_it() -> None:
    found = make(method="best-of-n", steps=1, random_state=5).fit(X, y)
    assert found.prompt_ == found.result_.prompt
    assert found.result_.seed == 5
    assert found.classes_.tolist() == [3, 4]
    assert found.predict(["green one", "red one", "green two"]).tolist() == [4, 3, 4]
    assert found.score(X, y) == 1.0
    assert found.score(["red a", "green b"], [4, 4], sample_weight=[1, 3]) == 0.75
    run = found.result_.run_dir
    assert json.loads((run / "result.json").read_text())["prompt"] == found.prompt_


def test_it_sends_what_was_scored() -> None:
    sent: list[Any] = []

    def speak(messages: list[dict[str, str]]) -> str:
        sent.append(messages)
        return answer(messages)

    found = make(target=speak).fit(X, y)
    scored = list(sent)
    sent.clear()
    found.predict(X)
    assert all(
        messages in scored or messages in [found.result_.messages_for(x) for x in X]
        for messages in sent
    )
    in_test = [found.result_.messages_for(x) for x in X]
    assert sum(messages in scored for messages in in_test) >= found.result_.test.n


def test_texts_may_come_in_many_ways() -> None:
    expected = make().fit(X, y).predict(X)
    for given in (np.array(X), np.array(X, dtype=object)[:, None], pandas.Series(X), tuple(X)):
        assert (make().fit(given, np.array(y)).predict(given) == expected).all()
    frame = pandas.DataFrame({"a text": X, "more/of it": ["x"] * len(X)})
    found = make().fit(frame, pandas.Series(y))
    assert found.n_features_in_ == 2
    assert (found.predict(frame) == expected).all()
    assert (found.predict(frame.to_dict("records")) == expected).all()


def test_classes_are_what_they_were() -> None:
    names = np.array(["no", "yes"])[np.array(y) - 3]
    words = {"no": "red", "yes": "green"}
    assert make(label_words=words).fit(X, names).predict(["red"]).tolist() == ["no"]
    bools = np.array(y) == 4
    words = {False: "red", True: "green"}
    assert make(label_words=words).fit(X, bools).predict(["green"]).tolist() == [True]
    with pytest.raises(ConfigError, match="classes that are not in y: \\[7\\]"):
        make(label_words={7: "x"}).fit(X, y)


def test_an_answer_that_names_no_class_is_told_and_gets_the_most_frequent() -> None:
    found = make().fit(X[1:], y[1:])  # one red less
    with pytest.warns(UserWarning, match="1 of 2 answers name none of the classes"):
        assert found.predict(["silent red", "red"]).tolist() == [4, 3]


def test_a_target_that_gives_no_answer_is_an_error() -> None:
    def speak(messages: list[dict[str, str]]) -> str:
        if "broken" in messages[-1]["content"]:
            raise ValueError("no")
        return answer(messages)

    api = {"longest_pause_seconds": 0.0}
    found = make(target={"model": speak, "api": api}).fit(X, y)
    with pytest.raises(TargetError):
        found.predict(["broken red", "red", "green"])


def test_probabilities_are_there_where_the_target_gives_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not hasattr(make().fit(X, y), "predict_proba")
    monkeypatch.setattr(speakers, "load_target", lambda config, function: ScriptedTarget())
    found = make(seed_prompt="please kindly").fit(X, y)
    found.close()
    probabilities = found.predict_proba(["red", "green"])
    assert probabilities.shape == (2, 2)
    # The scripted target gives the right word 0.9 where it likes every word of the prompt.
    assert probabilities[0] == pytest.approx([0.9, 0.1])
    assert found.predict(["red", "green"]).tolist() == [3, 4]


def test_it_is_cloned_searched_and_piped() -> None:
    made = make(random_state=3)
    assert clone(made).get_params() == made.get_params()
    assert is_classifier(made)
    scores = cross_val_score(make(), X, y, cv=2)
    assert scores.tolist() == [1.0, 1.0]
    prompts = ["Say the colour.", "Say the colour: silent"]
    search = GridSearchCV(make(), {"seed_prompt": prompts}, cv=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the silent prompt answers nothing
        search.fit(X, y)
    assert search.best_params_ == {"seed_prompt": "Say the colour."}
    upper = make_pipeline(FunctionTransformer(lambda rows: [row.lower() for row in rows]), make())
    assert upper.fit(X, y).predict(["RED"]).tolist() == [3]


def test_it_is_kept_without_its_target() -> None:
    found = make().fit(X, y)
    found.predict(["red"])
    again = pickle.loads(pickle.dumps(found))
    assert again.predict(["red", "green"]).tolist() == [3, 4]
    check_is_fitted(again)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(sklearn.exceptions.NotFittedError, match="not fitted yet; call fit"):
        make().predict(["red"])
    assert not hasattr(make(), "predict_proba")
    with pytest.raises(DataError, match="X must be a list of texts, found str"):
        make().fit("red", [3])
    with pytest.raises(DataError, match="input 1 of X is 7"):
        make().fit(["red", 7], [3, 4])
    with pytest.raises(DataError, match="X has 1 inputs and y 2 classes"):
        make().fit(["red"], [3, 4])
    with pytest.raises(ConfigError, match="no parameter 'stepps'"):
        make().set_params(stepps=3)
    with pytest.raises(ConfigError, match="leave per_input out"):
        make(settings={"per_input": {"mode": "always"}}).fit(X, y)
    assert repr(PromptClassifier("t", steps=3)) == "PromptClassifier(target='t', steps=3)"


@pytest.mark.parametrize("nothing", [None, float("nan"), pandas.NA])
def test_what_is_missing_is_no_text_and_no_class(nothing: Any) -> None:
    frame = pandas.DataFrame({"text": [*X[:-1], nothing]})
    with pytest.raises(DataError, match="input 47 of X has no 'text'"):
        make().fit(frame, y)
    names = [WORDS[c] for c in y[:-1]]
    for classes in ([*names, nothing], pandas.Series([*names, nothing], dtype=object)):
        with pytest.raises(DataError, match="a class in y is missing"):
            make(label_words=None).fit(X, classes)
    found = make().fit(X, y)
    with pytest.raises(DataError, match="input 1 of X has no 'text'"):
        found.predict([{"text": "red"}, {"text": nothing}])


def test_a_fit_that_fails_leaves_no_prompt_of_the_one_before() -> None:
    found = make().fit(X, y)
    with pytest.raises(ConfigError, match="not in y"):
        found.fit(X[:4], [5, 6, 5, 6])
    with pytest.raises(sklearn.exceptions.NotFittedError):
        found.predict(["red"])


LEFT_OUT = {
    "check_array_api_input": "arrays of other libraries than numpy hold no texts",
    "check_classifiers_one_label": "where there is one class there is nothing to find: refused",
    "check_fit2d_1sample": "refused, too, in words of our own: it names the one label",
}
OF_THE_INTERFACE = {
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_param",
    "check_mixin_order",
    "check_estimators_unfitted",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_dict_unchanged",
    "check_estimators_pickle",
    "check_estimator_sparse_array",
    "check_fit_check_is_fitted",
}


def spoken(X: Any) -> Any:
    """Rows of numbers as texts, which is what the checks have to offer."""
    if hasattr(X, "tocsr"):
        return X
    X = np.asarray(X)
    if X.ndim != 2:
        raise ValueError("Expected 2D array, got 1D array instead. Reshape your data")
    return [" ".join(f"{value:.3f}" for value in row) for row in X]


class Numbers(PromptClassifier):
    """Takes the rows of numbers that the checks give, as texts."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array, tags.input_tags.two_d_array = False, True
        return tags

    def fit(self, X: Any, y: Any) -> Any:
        return super().fit(spoken(X), y)

    def predict(self, X: Any) -> Any:
        self._require_fitted()
        return super().predict(spoken(X))


def guess(messages: list[dict[str, str]]) -> str:
    """One of the words that the plain seed prompt lists, always the same for a text."""
    words = messages[0]["content"].rsplit(": ", 1)[1].rstrip(".").split(", ")
    return words[zlib.crc32(messages[-1]["content"].encode()) % len(words)]


@pytest.mark.filterwarnings("ignore")
def test_the_checks_of_scikit_learn_hold() -> None:
    # All of them, a minute, with STABLEPROMPT_SKLEARN_CHECKS=1; else those of the interface.
    given = make(target=guess, label_words=None).get_params()
    done = Counter[str]()
    for estimator, check in estimator_checks.estimator_checks_generator(Numbers(**given)):
        name = getattr(check, "func", check).__name__
        if name in LEFT_OUT or not (ALL_CHECKS or name in OF_THE_INTERFACE):
            continue
        try:
            check(estimator)
        except unittest.SkipTest:
            continue
        done[name] += 1
    assert len(done) >= (35 if ALL_CHECKS else len(OF_THE_INTERFACE) - 1)
