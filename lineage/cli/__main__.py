"""``python -m lineage.cli`` is the `lineage` command."""

from lineage.cli import main

if __name__ == "__main__":
    main()
