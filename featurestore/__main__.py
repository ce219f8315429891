"""``python -m featurestore`` is the `featurestore` command."""

from featurestore.cli import main

if __name__ == "__main__":
    main()
