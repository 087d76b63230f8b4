"""What a target behind an API makes of a server that fails, kind by kind, as a Markdown table.

    python -m benchmarks.api_faults

Runs from a checkout: the server is the one of the tests (``tests.fakes``), on this machine, so that
seconds are those of pauses and time-outs alone. Three of ten attempts fail; the pauses between two
attempts are a second at most here, the time-out is half a second.
"""

import os
import time
from contextlib import closing
from typing import Any

from tests.fakes import api_faults
from tests.fakes.api_faults import Fault, Faults, Seen
from tests.fakes.api_server import ApiServer

from stableprompt.errors import StablePromptError
from stableprompt.llm_config import TargetConfig
from stableprompt.models.targets.answer_cache import AnswerCache
from stableprompt.models.targets.api import ApiTarget

CALLS = 60
SHARE = 0.3
TEXTS = [[{"role": "user", "content": f"text {number}"}] for number in range(CALLS)]
KEY, VARIABLE = "sk-benchmark", "STABLEPROMPT_BENCHMARK_KEY"
PASSING: dict[str, tuple[Fault, ...]] = {
    "none": (),
    "429": (api_faults.rate_limit(None),),
    "429, Retry-After 0.2 s": (api_faults.rate_limit(0.2),),
    "500": (api_faults.SERVER_ERROR,),
    "502, a page in HTML": (api_faults.BAD_GATEWAY,),
    "503": (api_faults.UNAVAILABLE,),
    "connection reset in mid-answer": (api_faults.RESET,),
    "half a JSON answer": (api_faults.HALF_JSON,),
    "empty answer": (api_faults.EMPTY,),
    "an error in a 200": (api_faults.ERROR_IN_200,),
    "an answer without text": (api_faults.NO_CONTENT,),
    "no answer at all": (api_faults.HANG,),
    "one byte in 0.05 s": (api_faults.drip(0.05),),
}
PASSING["all of these"] = tuple(fault for kinds in PASSING.values() for fault in kinds)


def of_texts(fault: Fault) -> Faults:
    """For three of ten texts, each time."""
    return lambda seen: fault if _number(seen) % 10 in (1, 4, 7) else None


def later(fault: Fault) -> Faults:
    """For all texts, but not while it is found out what the server can do."""
    return lambda seen: fault if _number(seen) >= 0 else None


def _number(seen: Seen) -> int:
    text = str(seen.body.get("messages", [{}])[-1].get("content", ""))
    return int(text.split()[-1]) if text.startswith("text ") else -10


LASTING: dict[str, dict[str, Any]] = {
    "wrong key": {"api_key": "another"},
    "wrong model": {"model": "another-model"},
    "quota used up before": {"faults": api_faults.always(api_faults.QUOTA)},
    "quota used up in the middle": {"faults": later(api_faults.QUOTA)},
    "context too long, 3 in 10 texts": {"faults": of_texts(api_faults.CONTEXT_TOO_LONG)},
    "filtered, 3 in 10 texts": {"faults": of_texts(api_faults.CONTENT_FILTER)},
    "500 for ever, 3 in 10 texts": {"faults": of_texts(api_faults.SERVER_ERROR)},
    "500 for ever, all texts": {"faults": later(api_faults.SERVER_ERROR)},
}


def row(name: str, **options: Any) -> str:
    """60 calls; a line of the table."""
    sent = again = answered = left_out = 0
    told = ""
    with ApiServer(lambda messages: "yes", **{"api_key": KEY, **options}) as server:
        api = {"base_url": server.base_url, "key_variable": VARIABLE, "timeout_seconds": 0.5}
        api["longest_pause_seconds"] = 1.0
        config = TargetConfig.model_validate({"model": "fake-model", "api": api})
        started = time.perf_counter()
        try:
            with closing(ApiTarget(config, AnswerCache(None))) as target:
                try:
                    answers = target.generate(TEXTS, 4)
                    left_out = len(answers.failed)
                    answered = CALLS - left_out
                    told = next(iter(answers.failed.values()), "")
                finally:
                    sent, again = target.requests["sent"], target.requests["retries"]
        except StablePromptError as error:
            told = f"stops: {error}".replace(server.base_url, "URL").replace(VARIABLE, "KEY")
        seconds = time.perf_counter() - started
        figures = CALLS, sent or len(server.requests), again, answered, left_out
    return f"| {name} | {' | '.join(map(str, figures))} | {seconds:.1f} | {told} |"


def main() -> None:
    """Print the table."""
    os.environ[VARIABLE] = KEY
    print("| fault | calls | requests | retries | answered | left out | seconds | told |")
    print("|---|---|---|---|---|---|---|---|")
    for name, kinds in PASSING.items():
        print(
            row(name, faults=api_faults.random_faults(SHARE, 0, kinds=kinds) if kinds else None),
            flush=True,
        )
    for name, options in LASTING.items():
        print(row(name, **options), flush=True)


if __name__ == "__main__":
    main()
