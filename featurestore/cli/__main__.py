"""``python -m featurestore.cli`` is the `featurestore` command."""

from featurestore.cli import main

if __name__ == "__main__":
    main()
