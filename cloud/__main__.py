"""python -m cloud"""

from cloud.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
