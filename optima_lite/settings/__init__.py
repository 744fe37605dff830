"""What the user wrote: the recipe (the science) and the machine file, checked whole before anything starts.

Start with `recipe`: every key, its default, its range; `config` loads it. No torch, model or task may be known here.
"""
