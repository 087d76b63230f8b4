"""A classifier in the way of scikit-learn, whose parameter is a prompt; scikit-learn is optional.

It has what ``clone``, ``cross_val_score``, ``GridSearchCV`` and ``Pipeline`` ask of an estimator,
and imports scikit-learn only where scikit-learn asks for its tags.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from stableprompt.config import make_config
from stableprompt.errors import ConfigError, DataError, StablePromptError, TargetError
from stableprompt.tasks.placeholders import placeholder_name
from stableprompt.tasks.task import Task

if TYPE_CHECKING:
    from stableprompt.models.targets.function import TargetFunction
    from stableprompt.models.targets.interface import TargetLLM
    from stableprompt.tuning.records import Observer, TuneResult

_AT_ONCE: Final = 64

Input = str | Mapping[str, Any]


class _Held:
    """A target that is loaded where it is first needed: a prediction changes no attribute."""

    target: "TargetLLM | None" = None


class PromptClassifier:
    """Finds a prompt with ``fit``, and asks the target under it with ``predict``.

    ``fit`` cuts what it is given into train, validation and test itself, so that ``result_`` has
    an honest figure; ``score`` on other data is the accuracy there, as scikit-learn counts it.

    Args:
        target: Who follows the prompt, as for ``tune``.
        agent: Who writes prompts, as for ``tune``.
        seed_prompt: The prompt to start from; None takes a plain one.
        label_words: Class -> what the target should answer for it; None takes the classes.
        method: As in the settings; None takes the default.
        steps: As in the settings; None takes the default.
        random_state: The seed of the run; None takes the default.
        preset: "default" or "paper".
        run_dir: A new folder for the run; None makes one under ``runs/``. A second ``fit`` needs
            another folder.
        settings: Any other field of ``TuneConfig``.
        observer: Told how ``fit`` goes.

    Attributes:
        classes_: The classes, sorted, (C,).
        prompt_: The prompt that was found.
        result_: What ``tune`` gave.
        n_features_in_: How many fields an input has.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn reads the parameters off this signature
        self,
        target: "str | TargetFunction | Mapping[str, Any] | None" = None,
        agent: str | Mapping[str, Any] | None = None,
        *,
        seed_prompt: str | None = None,
        label_words: Mapping[Any, str] | None = None,
        method: str | None = None,
        steps: int | None = None,
        random_state: int | None = None,
        preset: str = "default",
        run_dir: Any = None,
        settings: Mapping[str, Any] | None = None,
        observer: "Observer | None" = None,
    ) -> None:
        self.target, self.agent = target, agent
        self.seed_prompt, self.label_words = seed_prompt, label_words
        self.method, self.steps, self.random_state = method, steps, random_state
        self.preset, self.run_dir = preset, run_dir
        self.settings, self.observer = settings, observer

    # --- what scikit-learn asks of an estimator ---

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments it was made with; there is nothing deeper."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Change arguments.

        Raises:
            ConfigError: there is no such argument.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ConfigError(
                    f"PromptClassifier has no parameter {name!r}; use one of {', '.join(known)}"
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        plain = inspect.signature(type(self)).parameters
        changed = {n: v for n, v in self.get_params().items() if v is not plain[n].default}
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in changed.items())})"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            transformer_tags=None,
            regressor_tags=None,
            classifier_tags=ClassifierTags(poor_score=True),
            input_tags=InputTags(one_d_array=True, two_d_array=False, string=True, dict=True),
            no_validation=True,
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "result_")

    def __getstate__(self) -> dict[str, Any]:
        """Without the target, which is loaded again where it is needed."""
        return {n: _Held() if n == "_held" else v for n, v in vars(self).items()}

    # --- the work ---

    def fit(self, X: Any, y: Any) -> Self:
        """Find a prompt.

        Args:
            X: Texts; or mappings of fields to texts, or a data frame with a column a field.
            y: The class of each.

        Raises:
            ConfigError: a setting is unknown or out of range.
            DataError: there are too few examples, or they cannot be used as they are.
            RunError: the run folder holds something already.
        """
        from stableprompt.build import tune

        self.close()
        vars(self).pop("result_", None)  # a fit that fails leaves no prompt with other classes
        inputs, classes = _inputs(X), _classes(y)
        if len(inputs) != len(classes):
            raise DataError(
                f"X has {len(inputs)} inputs and y {len(classes)} classes; give one for each"
            )
        settings = self._settings()
        self.classes_, found = np.unique(classes, return_inverse=True)
        self._majority = int(np.bincount(found).argmax())
        self._words = self._label_words()
        names = [str(c) for c in self.classes_]
        task = _task(
            inputs,
            [names[n] for n in found],
            dict(zip(names, self._words, strict=True)),
            self.seed_prompt,
        )
        self.result_: TuneResult = tune(
            task,
            agent=self.agent,
            target=self.target,
            run_dir=self.run_dir or _new_folder(),
            preset=self.preset,
            observer=self.observer,
            **settings,
        )
        self.prompt_, self.n_features_in_ = self.result_.prompt, len(task.fields)
        self._held = _Held()
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The class of each input, (N,).

        An answer that names no class counts as the most frequent one of ``fit``, with a warning.

        Raises:
            TargetError: the target gave no answer to an input.
        """
        probabilities = self._ask(X)
        chosen = probabilities.argmax(axis=1)
        nameless = ~probabilities.any(axis=1)
        if nameless.any():
            warnings.warn(
                f"{nameless.sum()} of {len(chosen)} answers name none of the classes; the most "
                "frequent class stands in",
                stacklevel=2,
            )
            chosen[nameless] = self._majority
        return np.asarray(self.classes_[chosen])

    @property
    def predict_proba(self) -> Callable[[Any], np.ndarray]:
        """Probabilities of the classes, (N, C); an attribute only where the target gives them."""
        if not self._target().gives_probabilities:
            raise AttributeError(
                "the target says only what it answers, so there is no predict_proba"
            )
        return self._ask

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy on other data, 0 to 1."""
        right = self.predict(X) == np.asarray(y).ravel()
        return float(np.average(right, weights=sample_weight))

    def close(self) -> None:
        """Let go of the target; the next prediction loads it again."""
        held = vars(self).get("_held")
        if held is not None and held.target is not None:
            held.target.close()
            held.target = None

    def _settings(self) -> dict[str, Any]:
        own = {"method": self.method, "steps": self.steps, "seed": self.random_state}
        given = {name: value for name, value in own.items() if value is not None}
        settings = {**(self.settings or {}), **given}
        if "per_input" in settings:
            raise ConfigError("PromptClassifier has one prompt for all; leave per_input out")
        if twice := sorted({"agent", "target", "preset"} & settings.keys()):
            raise ConfigError(f"settings has {twice[0]!r}; give {twice[0]}=... on its own")
        return settings

    def _label_words(self) -> list[str]:
        given = dict(self.label_words or {})
        words = [str(given.get(c, given.get(str(c), c))) for c in self.classes_.tolist()]
        unknown = given.keys() - set(self.classes_.tolist()) - set(map(str, self.classes_))
        if unknown:
            raise ConfigError(f"label_words names classes that are not in y: {sorted(unknown)}")
        return words

    def _target(self) -> "TargetLLM":
        self._require_fitted()
        if self._held.target is None:
            from stableprompt.speakers import load_target, named_target

            named, function = named_target(self.target)
            config = make_config(self._settings(), {"target": named}, preset=self.preset)
            self._held.target = load_target(config, function=function)
        return self._held.target

    def _ask(self, X: Any) -> np.ndarray:
        target = self._target()
        result = self.result_
        conversations = [result.messages_for(_lone(given)) for given in _inputs(X)]
        if not conversations:
            raise DataError("X has no inputs; give at least 1 sample, found 0")
        rows: list[np.ndarray] = []
        for start in range(0, len(conversations), _AT_ONCE):
            part = conversations[start : start + _AT_ONCE]
            scores = target.label_scores(part, [self._words] * len(part))
            if scores.failed:
                why = next(iter(scores.failed.values()))
                raise TargetError(
                    f"the target gave no answer to {len(scores.failed)} of {len(part)} inputs: "
                    f"{why}; try again"
                )
            rows.append(scores.label_probs.double().numpy())
        return np.concatenate(rows)

    def _require_fitted(self) -> None:
        if not hasattr(self, "result_"):
            raise _not_fitted()(
                "this PromptClassifier instance is not fitted yet; call fit with texts and their "
                "classes first"
            )


def _not_fitted() -> type[Exception]:
    """scikit-learn's error where it is installed; else one that is caught alike."""
    try:
        from sklearn.exceptions import NotFittedError
    except ImportError:
        return type("NotFittedError", (StablePromptError, ValueError, AttributeError), {})
    found: type[Exception] = NotFittedError
    return found


def _inputs(X: Any) -> list[Input]:
    """The inputs one by one: texts, or mappings of fields."""
    if hasattr(X, "columns") and hasattr(X, "to_dict"):  # a data frame
        return [_fields(row, n) for n, row in enumerate(X.to_dict("records"))]
    if hasattr(X, "tocsr"):
        raise DataError("X is a sparse matrix, and sparse input is not supported; give texts")
    if isinstance(X, str | bytes | Mapping) or not hasattr(X, "__len__"):
        raise DataError(f"X must be a list of texts, found {type(X).__name__}; put it into [ ]")
    if hasattr(X, "ndim") and X.ndim == 2 and X.shape[1] == 1:
        X = X.ravel()
    rows = X.tolist() if hasattr(X, "tolist") else list(X)
    for number, row in enumerate(rows):
        if not isinstance(row, str | Mapping):
            raise DataError(
                f"input {number} of X is {row!r}; give texts, or mappings of fields to texts"
            )
    return [_fields(row, n) if isinstance(row, Mapping) else row for n, row in enumerate(rows)]


def _classes(y: Any) -> np.ndarray:
    if any(map(_is_missing, np.asarray(y, dtype=object).ravel())):
        raise DataError("a class in y is missing; fill it in, or leave the row out")
    return np.asarray(y).ravel()


def _is_missing(value: Any) -> bool:
    """Whether it is None, or what numpy and pandas write for it."""
    return not isinstance(value, str) and str(value) in ("None", "nan", "NaT", "<NA>")


def _fields(row: Mapping[Any, Any], number: int) -> dict[str, str]:
    """Named as the layout names them."""
    for name, value in row.items():
        if _is_missing(value):
            raise DataError(f"input {number} of X has no {str(name)!r}; fill it in or leave it out")
    return {placeholder_name(str(name)): str(value) for name, value in row.items()}


def _lone(given: Input) -> Input:
    """A text, where the mapping has one field."""
    return next(iter(given.values())) if isinstance(given, Mapping) and len(given) == 1 else given


def _task(
    inputs: list[Input], labels: list[str], words: Mapping[str, str], seed_prompt: str | None
) -> Task:
    rows = [dict(given) if isinstance(given, Mapping) else {"text": given} for given in inputs]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        raise DataError("X has no inputs; give at least 1 sample, found 0")
    label = next(name for name in ("label", "class", "label of the row") if name not in names)
    return Task.from_records(
        [{**row, label: value} for row, value in zip(rows, labels, strict=True)],
        name="classifier",
        kind="classification",
        text=names if len(names) > 1 else names[0],
        label=label,
        label_words=words,
        seed_prompt=seed_prompt,
    )


def _new_folder() -> Path:
    """A folder of its own, which is not made yet: several fits may run at once."""
    return Path("runs") / f"classifier-{token_hex(4)}"
