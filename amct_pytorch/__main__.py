"""`python -m amct_pytorch`, the same as `amct-decompose`."""

from .cli.app import main

main()
