"""Peak memory of one step, in a process of its own.

    python benchmarks/peak.py ours REQUEST.json
    python benchmarks/peak.py three_copies REQUEST.json

``performance.py`` writes the request and starts this; the last line printed is JSON. On a CPU the
figures are resident bytes, pages of mapped checkpoints included; on a GPU those that torch
allocated. ``before`` is read when everything is imported and no model is loaded.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the program does, before torch is loaded
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from benchmarks.measure import peak_resident_bytes, resident_bytes
from benchmarks.naive_training import Replay, load_three_copies, naive_step
from benchmarks.session import Session
from benchmarks.workload import Workload, load_workload
from stableprompt.models.hardware import pick_hardware
from stableprompt.models.loading import resolve_name


def main() -> None:
    """Run one contestant."""
    contestant, path = sys.argv[1:]
    request = json.loads(Path(path).read_text(encoding="utf-8"))
    data_dir = request["data_dir"]
    workload = load_workload(Path(data_dir) if data_dir else None, **request["workload"])
    device = pick_hardware(device=workload.config.device, dtype=workload.config.dtype).device
    before = _now(device)
    if contestant == "ours":
        session = Session.load(workload)
        session.start.clear()  # a copy of the adapters that a run does not have
        session.step()
    else:
        _three_copies(workload, request, device)
    print(json.dumps({"before": before, "peak": _peak(device)}))


def _three_copies(workload: Workload, request: dict[str, Any], device: torch.device) -> None:
    from transformers import AutoTokenizer

    config = workload.config
    source = resolve_name(config.agent.model)
    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    copies = load_three_copies(
        source,
        Path(request["adapters"]),
        tokenizer,
        request["end_ids"],
        device=device,
        dtype=pick_hardware(device=config.device, dtype=config.dtype).dtype,
        temperature=config.agent.temperature,
    )
    replay = Replay(
        torch.tensor(request["query_ids"], device=device),
        torch.tensor(request["responses"], device=device),
        torch.tensor(request["mask"], device=device),
        tuple(request["refused"]),
    )
    optimizer = torch.optim.AdamW(copies.policy.learned(), lr=1e-5, weight_decay=0.0)
    # Its batches are scored one after the other: a few have the peak of all.
    naive_step(copies, optimizer, workload, workload.examples[:4], replay)


def _now(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_bytes()


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()


if __name__ == "__main__":
    main()
