"""Before torch is loaded: test runs share the machine, so threads must not spin."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
