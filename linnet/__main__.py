"""``python -m linnet`` is the same as ``linnet``."""

from linnet.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
