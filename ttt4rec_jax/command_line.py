"""The argument parser of the smaller commands in experiments/. Imports no JAX."""

import argparse

from data_prep.settings import UserError


class Parser(argparse.ArgumentParser):
    """Keeps the description's lines, and raises UserError where argparse would print its usage and exit."""

    def __init__(self, program: str, description: str):
        style = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"python {program}", description=description, formatter_class=style, allow_abbrev=False)

    def error(self, message: str):
        raise UserError(f"{message}; see --help")
