"""Train a stage: `python train.py --help`."""

from poolwise.app import main

if __name__ == "__main__":
    main()
