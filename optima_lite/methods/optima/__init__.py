"""Optima (arXiv 2410.08115): imitate the best dialogues, prefer the better messages of a tree, go round again.

Start with `loop`.
"""
