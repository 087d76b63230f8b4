"""``python -m stableprompt``."""

from stableprompt.cli import main

if __name__ == "__main__":
    main()
