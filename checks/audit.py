"""Known vulnerabilities of the versions in constraints.txt, by pip-audit.

    python checks/audit.py [FILE]

A finding fails. Where the database of vulnerabilities cannot be reached nothing is known: that is
said, and is no failure, so that ``make check`` works offline.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

ACCEPTED: Final[dict[str, str]] = {}
"""Number of a finding -> why it does no harm here, and until when that was looked at."""

UNREACHED: Final = 0
_SIGNS_OF_NO_NETWORK: Final = (
    "ConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "Max retries exceeded",
    "Could not connect",
    "Connection refused",
    "Name or service not known",
    "Temporary failure in name resolution",
    "timed out",
    "ProxyError",
    "SSLError",
)


def main(pins: Path) -> int:
    """Audit a file of pinned versions; 0 where nothing was found, or nothing can be known."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(pins)]
    # Only what is pinned is looked up: nothing is resolved, downloaded or built.
    command += ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        told = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return _without_an_answer(done.stderr)
    unknown = [package["name"] for package in told if "skip_reason" in package]
    if len(unknown) == len(told):
        print("audit: NOT MADE, the database that answers here knows none of the packages")
        return UNREACHED
    findings = 0
    for package in told:
        for one in package.get("vulns", ()):
            names = {one["id"], *one.get("aliases", ())}
            if reasons := [ACCEPTED[name] for name in names if name in ACCEPTED]:
                print(f"accepted: {package['name']} {one['id']}: {reasons[0]}")
                continue
            findings += 1
            fixed = ", ".join(one.get("fix_versions", ())) or "no version"
            print(f"{package['name']} {package['version']}: {one['id']}, fixed in {fixed}")
    if unknown:
        print(f"audit: not known to the database: {', '.join(unknown)}")
    print(f"audit: {len(told) - len(unknown)} packages looked up, {findings} findings")
    return int(findings > 0)


def _without_an_answer(said: str) -> int:
    last = said.strip().splitlines()[-1] if said.strip() else "pip-audit said nothing"
    if any(sign in said for sign in _SIGNS_OF_NO_NETWORK):
        print("audit: NOT MADE, the database of vulnerabilities cannot be reached from here")
        return UNREACHED
    print(f"audit: pip-audit failed: {last}")
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("constraints.txt")))
