"""Who speaks, what each sees, when it ends: talk as data, and the search over what might be said. No torch.

Start with `dialogue`: a batch of dialogues, turn by turn. Whoever speaks is passed in as a callable.
"""
