"""Prompt search (arXiv 2603.02630): the best prompts for a fixed workflow, chosen together in few evaluations.

Start with `loop`.
"""
