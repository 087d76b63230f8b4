"""DATA on the command line: a file, or the name of a bundled task."""

from dataclasses import replace
from pathlib import Path

from stableprompt.errors import DataError
from stableprompt.tasks.bundled_tasks import bundled_names, load_bundled
from stableprompt.tasks.loading import LoadOptions
from stableprompt.tasks.task import Task


def load_task(
    data: str, *, text: str | None, label: str | None, seed_prompt: str | None, seed: int
) -> Task:
    """Load DATA; a file wins over a bundled task of the same name.

    Raises:
        DataError: it is neither, or its rows cannot be used.
    """
    options: LoadOptions = {"text": text, "label": label, "seed_prompt": seed_prompt, "seed": seed}
    path = Path(data)
    if data and path.is_dir() and data not in bundled_names():
        raise DataError(f"{data} is a folder; give the file in it that holds the examples")
    if path.is_file():
        return Task.from_file(path, **options)
    if data in bundled_names():
        if text or label:
            raise DataError(f"{data} is a bundled task, it takes no --text and no --label")
        task = load_bundled(data)
        return task if seed_prompt is None else replace(task, seed_prompt=seed_prompt)
    if path.suffix or "/" in data:
        return Task.from_file(path, **options)  # says what is wrong with the file
    return load_bundled(data)  # says which names there are
