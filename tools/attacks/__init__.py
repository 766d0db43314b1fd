"""Attacks on the library, one kind a module; tools/attack.py runs them."""
