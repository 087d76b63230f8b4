"""Scripts of `make check`."""
