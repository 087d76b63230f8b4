"""How ``evaluate --run`` takes over what a run was scored with."""

from pathlib import Path

import pytest

from stableprompt.cli.evaluate import _as_in_run
from stableprompt.config import make_config
from stableprompt.runs.folder import CONFIG, RESULT, TASK, RunFolder
from stableprompt.tasks.archive import task_to_dict
from stableprompt.tasks.bundled_tasks import load_bundled


@pytest.mark.parametrize(
    "how",
    [
        {"quantize": "4bit"},
        {"attention": "eager"},
        {"dtype": "bfloat16"},
        {"device": "cpu"},
        {"target": {"dtype": "float16", "quantize": "none"}},
    ],
)
def test_the_target_is_held_as_in_the_run(tmp_path: Path, how: dict[str, object]) -> None:
    folder = RunFolder.create(tmp_path / "run")
    used = make_config(how)
    folder.write_json(CONFIG, used.model_dump(mode="json"))
    folder.write_json(TASK, task_to_dict(load_bundled("support")))
    folder.write_json(RESULT, {"prompt": "Sort it.", "setting": {"max_answer_tokens": 0}})
    prompt, _, settings = _as_in_run(folder.path, None)
    assert prompt == "Sort it."
    again = make_config(settings)
    for name in ("dtype", "device", "attention", "quantize", "target", "judge"):
        assert getattr(again, name) == getattr(used, name)
