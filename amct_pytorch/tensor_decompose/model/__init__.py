"""Which layers a model has, what each is, and how one is replaced."""
