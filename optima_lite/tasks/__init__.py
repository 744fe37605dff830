"""Rows to questions with the facts dealt out to the agents, and answers to scores. No torch.

Start with `questions`; `answers` scores. Nothing here knows of agents or models.
"""
