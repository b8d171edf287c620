"""What a trained classifier is exported as: a module for each form, each read back by `check.py` in another process."""
