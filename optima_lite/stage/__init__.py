"""What every method stands on: the cast, the run's stage, the judge, evaluation and the checks before a run.

Start with `stage`: what each step of a run works with. A method is no part of it.
"""
