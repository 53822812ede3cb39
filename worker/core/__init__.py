"""The optimisation core, in the field's words: budget, step, objective, view, pgd. Imports torch alone."""
