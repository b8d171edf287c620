"""`python -m poolwise`: what the command `poolwise` does, as a module, which torchrun can start."""

from poolwise.app import main

if __name__ == "__main__":
    main()
