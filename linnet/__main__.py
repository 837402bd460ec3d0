"""The ``linnet`` command, which ``python -m linnet`` is as well."""


def main() -> int:
    """Runs the command line; Ctrl-C ends it quietly from the first moment, while it still imports."""
    try:
        from linnet import cli

        return cli.main()
    except KeyboardInterrupt:
        return 130  # as cli.INTERRUPTED, which may not be there yet


if __name__ == "__main__":
    raise SystemExit(main())
