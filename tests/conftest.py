"""Before torch is loaded: test runs share the machine, so threads must not spin long."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "3000")
